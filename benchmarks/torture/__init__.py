"""Programs that try to make the daemon lose, double or tear acknowledged rows, and their oracle.

`load` sends rows of which each is unique and remembers what was answered, `oracle` reads the
files and judges, `daemon` starts and kills, `program` says what a program is, `report` tells,
`cli` runs. Each other module holds programs: one way to do harm.
"""
