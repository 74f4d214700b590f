#compdef p2pfs
# The program knows its own commands, and the names of the cluster. The shell quotes what it is
# offered.
_p2pfs() {
    local -a offered slashed others
    local offer value text
    # a home, which what is offered would be quoted to be none of
    if [[ $PREFIX == '~'* ]]; then
        _files
        return
    fi
    offered=("${(@f)$(COMPLETE=zsh p2pfs -- "${(@Q)words[1,CURRENT-1]}" "$PREFIX" 2>/dev/null)}")
    for offer in $offered; do
        value=${offer%%$'\t'*}
        text=${offer#"$value"}
        # a backslash and a colon mean something to _describe
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
# What is loaded as a function of this name is to complete at once.
if [[ -n ${funcstack[(r)_p2pfs]} ]]; then
    _p2pfs "$@"
else
    compdef _p2pfs p2pfs
fi
