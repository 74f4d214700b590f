#compdef p2pfs
# The program itself returns the completions, which include names of the cluster. The shell quotes
# them.
_p2pfs() {
    local -a offered slashed others
    local offer value text
    # _describe would quote the tilde, which then no longer means a home directory.
    if [[ $PREFIX == '~'* ]]; then
        _files
        return
    fi
    offered=("${(@f)$(COMPLETE=zsh p2pfs -- "${(@Q)words[1,CURRENT-1]}" "$PREFIX" 2>/dev/null)}")
    for offer in $offered; do
        value=${offer%%$'\t'*}
        text=${offer#"$value"}
        # For _describe a colon begins the description, and a backslash escapes the next character.
        value=${${value//\\/\\\\}//:/\\:}
        if [[ $value == *[=/] ]]; then
            slashed+=("$value${text:+:${text#$'\t'}}")
        else
            others+=("$value${text:+:${text#$'\t'}}")
        fi
    done
    [[ -n $slashed ]] && _describe -V values slashed -S ''
    [[ -n $others ]] && _describe -V values others
    return 0
}
# If zsh has loaded this file as the function _p2pfs, the completion that caused it is answered now.
if [[ -n ${funcstack[(r)_p2pfs]} ]]; then
    _p2pfs "$@"
else
    compdef _p2pfs p2pfs
fi
