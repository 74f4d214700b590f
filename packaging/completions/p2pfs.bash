# The program knows its own commands.
eval "$(p2pfs completions bash)"
