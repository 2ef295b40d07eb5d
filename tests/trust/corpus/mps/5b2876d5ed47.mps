*SENSE:Minimize
NAME          closure
ROWS
 N  OBJ
 L  _C1
 L  _C2
 L  _C3
 L  budget
COLUMNS
    MARK      'MARKER'                 'INTORG'
    w_0       _C1       -1.000000000000e+00
    w_0       budget     4.000000000000e+00
    w_0       OBJ        0.000000000000e+00
    MARK      'MARKER'                 'INTEND'
    MARK      'MARKER'                 'INTORG'
    w_1       _C2       -1.000000000000e+00
    w_1       budget     5.000000000000e+00
    w_1       OBJ        0.000000000000e+00
    MARK      'MARKER'                 'INTEND'
    MARK      'MARKER'                 'INTORG'
    w_2       _C3       -1.000000000000e+00
    w_2       budget     6.000000000000e+00
    w_2       OBJ        0.000000000000e+00
    MARK      'MARKER'                 'INTEND'
    MARK      'MARKER'                 'INTORG'
    x_0       _C1        1.000000000000e+00
    x_0       OBJ       -7.000000000000e+00
    MARK      'MARKER'                 'INTEND'
    MARK      'MARKER'                 'INTORG'
    x_1       _C2        1.000000000000e+00
    x_1       OBJ       -8.000000000000e+00
    MARK      'MARKER'                 'INTEND'
    MARK      'MARKER'                 'INTORG'
    x_2       _C3        1.000000000000e+00
    x_2       OBJ       NaNe+00
    MARK      'MARKER'                 'INTEND'
RHS
    RHS       _C1        0.000000000000e+00
    RHS       _C2        0.000000000000e+00
    RHS       _C3        0.000000000000e+00
    RHS       budget     1.000000000000e+01
BOUNDS
 BV BND       w_0     
 BV BND       w_1     
 BV BND       w_2     
 BV BND       x_0     
 BV BND       x_1     
 BV BND       x_2     
ENDATA
