"""Which indexes would help, and what a plan says: rules over plans and catalog facts. Pure: no I/O, no clock."""
