"""The ``fastgen`` command: the table of commands, how they are found and run, and Lightning's four of them."""
