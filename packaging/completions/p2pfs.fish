# The program generates its own completions.
p2pfs completions fish | source
