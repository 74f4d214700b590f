# The program itself returns the completions, which include names of the cluster. It quotes them for
# the position of the cursor: users of other nodes choose these names, with any character in them.
_p2pfs() {
    mapfile -t COMPREPLY < <(COMPLETE=bash p2pfs -- "${COMP_LINE:0:COMP_POINT}" "$2" 2>/dev/null)
    if [[ ${COMPREPLY-} == *[=/] ]]; then
        compopt -o nospace 2>/dev/null
    fi
    return 0
}
if [[ ${BASH_VERSINFO[0]} -gt 4 || ${BASH_VERSINFO[0]} -eq 4 && ${BASH_VERSINFO[1]} -ge 4 ]]; then
    complete -o bashdefault -o nosort -F _p2pfs p2pfs
else
    complete -o bashdefault -F _p2pfs p2pfs
fi
