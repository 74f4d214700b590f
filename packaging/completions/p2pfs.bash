# The program generates its own completions.
eval "$(p2pfs completions bash)"
