"""``prunopt predict``: what a saved model says of new rows, and what each row costs."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from prunopt.commands.forest_best import read_model
from prunopt.commands.forest_given import read_pruned
from prunopt.commands.output import guarded, note, print_json
from prunopt.core.validate import Shown, invalid, number, one_of, require


@guarded
def predict(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder that prunopt forest wrote with --out.")],
    data: Annotated[Path, typer.Option(help="CSV file with a header: the columns of the model's table.")],
    on_demand: Annotated[bool, typer.Option("--on-demand", help="Also list what each row acquires, in order.")] = False,
    stop_early: Annotated[
        str | None,
        typer.Option(
            "--stop-early",
            help="certain: acquire nothing more once the prediction cannot change; probable: once it hardly will.",
        ),
    ] = None,
    disagreement: Annotated[
        float | None,
        typer.Option(help="With --stop-early probable: share of labels that may change. [default: 0.001]"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="CSV file to write. [default: standard output]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Predict the rows of a table with a saved model: label, probabilities, and cost of each row.

    Columns are found by name; texts, decimal commas and missing values are read as in the table that the model was made
    from. A column that no row needs may be absent. Probabilities are those of the whole model: with --stop-early they
    are not printed.
    """
    from prunopt.core.files import write_atomically
    from prunopt.forests.csv_tables import read_rows

    if stop_early is not None:
        one_of("--stop-early", stop_early, ("certain", "probable"))
    probable = stop_early == "probable"
    mend = "give --stop-early probable with it"
    require(probable or disagreement is None, "--disagreement", "be left out here", disagreement, mend)
    if disagreement is not None:
        number("--disagreement", disagreement, low=0, high=1)
    require(folder.is_dir(), "DIR", "be a folder that prunopt forest wrote with --out", str(folder))
    require(out is None or not out.is_dir(), "--out", "be a file to write", Shown(out), "it is a folder")
    model, report = read_pruned(folder) or read_model(folder)
    spec = report["table"]
    rows, absent, notes = read_rows(data, spec["names"], spec["categories"], spec["styles"])
    for line in notes:
        note(line)
    options: dict[str, Any] = {}
    if stop_early is not None:
        options = {"stop_early": "probable" if probable else True, "disagreement": disagreement}
    answer = model.predict_on_demand(rows, **options)
    for k in absent:
        if answer.acquired[:, k].any():
            mend = f"{int(answer.acquired[:, k].sum())} of {len(rows)} rows need it; leave unknown cells empty"
            raise invalid(f"{data}", f"have the column {spec['names'][k]!r}", "none", mend)
    records: list[dict[str, Any]] = [{"prediction": label} for label in answer.predictions.tolist()]
    if hasattr(model, "classes_") and stop_early is None:
        for record, chances in zip(records, model.predict_proba(rows).tolist(), strict=True):
            record |= {f"probability_{label}": p for label, p in zip(model.classes_.tolist(), chances, strict=True)}
    for record, cost in zip(records, answer.cost.tolist(), strict=True):
        record["cost"] = cost
    if on_demand:
        names = spec["names"]
        for i, record in enumerate(records):
            found = [a.group for a in answer.acquisitions.of(i)]
            members = [[names[k] for k in np.flatnonzero(model.feature_costs_.group_of == g)] for g in found]
            record["acquired"] = " ".join(name for group in members for name in group)
    if as_json:
        print_json({"rows": records, "mean_cost": float(answer.cost.mean())})
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    if out is None:
        print(text.getvalue(), end="")
    else:
        with write_atomically(out) as temporary:
            temporary.write_text(text.getvalue(), "utf-8")
        print(f"{len(records)} rows, mean cost {answer.cost.mean():.2f} {report['currency'] or 'units'}: {out}")
