"""A text of its own domain, on which every run is scored beside the calibration's: written for prunopt, MIT."""

SECOND_TEXT = """\
The river that runs past the old mill has been measured every morning since the flood. A painted board stands by the
bridge, and whoever opens the bakery walks over, reads the mark that the water touches, and writes it into a book.
Most days the number hardly changes. In spring, when the snow melts in the hills, it climbs for a week and then falls
again. The book has been used by the town three times: to decide how high the new bridge should be, to settle a
quarrel about a cellar, and to show a school class that a curve can be drawn from nothing but patience.

Bread is made from four things, and each of them can be weighed. For one loaf, take five hundred grams of flour, three
hundred and forty grams of water, ten grams of salt and a little yeast. Mix them until no dry flour is left. Wait for
half an hour, then fold the dough from four sides to the middle. Do this three times. Let it rest until it has grown
by half, shape it, and let it rest again. The oven should be as hot as it will go. After ten minutes turn it down, and
after forty take the loaf out and knock on its underside: if it sounds hollow, it is done. Leave it alone until it is
cold.

"I don't see why we should wait," said Marta. "The train leaves at six, and it is a quarter past five already."

"Because the shop on the corner closes at half past," her brother answered, "and I promised to bring him the key."

"You could have brought it yesterday."

"Yesterday I did not have it." He put on his coat. "Walk to the station, buy two tickets, and stand where I can see
you. If I am late, take the train without me, and I will follow in an hour." She looked at the clock again, shook her
head, and laughed, because it was exactly what their father would have said.

A heat pump does not make heat; it moves it. Outside, a fluid that boils at a low temperature takes up heat from the
air and becomes a gas. A compressor squeezes the gas, which makes it hotter than the rooms. Inside, the gas gives its
heat to the water of the radiators and becomes a fluid again. A valve lets the pressure drop, and the circle starts
once more. For every unit of electricity that drives the compressor, about three units of heat arrive in the house.
The colder it is outside, and the hotter the radiators must be, the smaller that ratio becomes. This is why large
radiators and good walls matter more than the machine itself.

The following rules apply to the use of the reading room. First, books may be taken from the shelves but must be
returned to the trolley and not to the shelf. Second, maps and drawings are handed out at the desk, two at a time.
Third, pens are not allowed near manuscripts; pencils are provided. Fourth, a seat that has been empty for thirty
minutes may be given to another reader. Complaints should be made in writing to the librarian, who will reply within
ten days. The room is open from nine to seven on weekdays and from ten to four on Saturdays. It is closed on public
holidays.

Let us count the ways in which a committee of five can be chosen from twelve people. The first member can be anyone,
so there are twelve choices; the second can be any of the remaining eleven; and so on down to eight. The product of
these five numbers is 95,040. But the order in which the members were named does not matter, and each committee was
counted once for every order of its five members, that is 120 times. Dividing, we find 792 committees. If two of the
twelve refuse to sit together, the committees that hold both must be taken away: there are as many of them as there
are choices of three from the other ten, which is 120. So 672 committees are left.

In the year of the comet the harvest was late. People said that the two had something to do with each other, as people
do, but the old astronomer, who had kept the weather for forty years, opened his notes and read out the summers in
which the harvest had been just as late and the sky had been empty. There were nine of them. Then he read the years in
which a comet had come and the harvest had been early. There were two. "That is not much," he said, "but it is more
than we had before I opened the book." Nobody thanked him, and by winter most had forgotten it. The notes are in the
museum now. On the last page, in a different hand, someone has added the line: he was right about the comet and wrong
about the rain.

Most of the birds that cross the sea at night do so in clear weather and with the wind behind them. Before they leave
they eat until they weigh nearly twice as much as in summer. The fat is their fuel: a small warbler uses less than a
gram of it in an hour of flight. Young birds find the way without having seen it. They turn in the right direction
because they were born with it, and they correct for the wind by the stars, by the place where the sun went down and
by the field of the earth. If fog comes up over the water they may circle around the lamp of a lighthouse until
morning, and many of them die there. That is why the lamps of some towers are now switched off for a few hours on the
busiest nights of the autumn.

Dear Mr. Okafor, thank you for your letter of 3 May. We are sorry to hear that the second parcel did not reach you.
Our records show that it was handed to the carrier on 21 April under the number 4471-B, and that it was signed for on
the 24th by a person named Lind. If you do not know anyone of that name, please tell us, and we will ask the carrier
for a copy of the signature. In the meantime we have sent a replacement at no cost. It should arrive within four
working days. Should the first parcel turn up after all, you may keep its contents, or return them to us free of
charge. With kind regards.
"""
