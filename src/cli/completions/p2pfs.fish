# The program itself returns the completions, which include names of the cluster. The shell quotes
# them.
function __p2pfs_offers
    set -l before (commandline --current-process --tokenize --cut-at-cursor)
    set -l current (commandline --current-token --cut-at-cursor)
    COMPLETE=fish p2pfs -- $before "$current" 2>/dev/null
end
complete --keep-order --no-files --command p2pfs --arguments "(__p2pfs_offers)"
