# The program knows its own commands.
p2pfs completions fish | source
