"""Generate the completion scripts for bash and zsh from the table of commands.

They need no package and do not start the launcher, except to ask `cache names` for the names of repos. A shell finds a
completion by the command's name, so `python start_app.py` keeps python's own.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping

from ..arguments.options import Option
from ..arguments.table import ALIASES, COMMANDS, COMMON, GROUPS, OPTIONS, TABLE
from ..arguments.typed import LAUNCH
from . import help as helping


def script(shell: str) -> str:
    """Return the script that completes the launcher in `bash` or `zsh`."""
    described = shell == "zsh"
    with_value = {name: option for name, option in OPTIONS.items() if option.takes_value}
    choices = {name: option.keywords["choices"] for name, option in with_value.items() if "choices" in option.keywords}
    own = {_either((name, *([""] if name == LAUNCH else []))): _options(TABLE[name].groups) for name in COMMANDS}
    words = {"''": helping.commands(), **{group: helping.within(group) for group in GROUPS}}
    parts = {
        "GROUPS": _either(GROUPS),
        "WITH_VALUE": _either(with_value),
        "WITH_VALUES": _either(name for name, option in with_value.items() if option.takes_values),
        "DIR": _either(name for name, option in with_value.items() if option.completes == "dir"),
        "FILE": _either(name for name, option in with_value.items() if option.completes == "file"),
        "REPO": _either(name for name, option in with_value.items() if option.completes == "repo"),
        "TAKES_REPOS": _either(name for name in COMMANDS if TABLE[name].repos in ("*", "+")),
        "TAKES_DIR": _either(name for name in COMMANDS if TABLE[name].repos == "DIR"),
        "ALIASES": " ".join(f"{alias}) word={name} ;;" for alias, name in ALIASES.items()),
        "CHOICES": _branches({name: dict.fromkeys(values, "") for name, values in choices.items()}, False),
        "COMMANDS": _branches(words, described),
        "OPTIONS": _branches({pattern: options for pattern, options in own.items() if options}, described),
        "COMMON": _list(_options(COMMON), described),
    }
    return re.sub("@([A-Z_]+)@", lambda match: parts[match[1]], _ZSH if shell == "zsh" else _BASH)


def _options(groups: Mapping[str, Iterable[Option]]) -> Mapping[str, str]:
    return {name: option.help for options in groups.values() for option in options for name in option.names}


def _either(words: Iterable[str]) -> str:
    """Return words as a pattern of `case`."""
    return " | ".join(map(shlex.quote, words))


def _branches(branches: Mapping[str, Mapping[str, str]], described: bool) -> str:
    """Return the branches of a `case` that set `found` to the possible next words."""
    return "\n".join(
        f"            {pattern}) found=({_list(words, described)}) ;;" for pattern, words in branches.items()
    )


def _list(words: Mapping[str, str], described: bool) -> str:
    """Return words as the elements of a shell's array, for zsh each with its description."""
    return " ".join(shlex.quote(f"{word}:{meaning}" if described else word) for word, meaning in words.items())


# Both scripts read the typed words in the same way: `option` is the one whose value comes next, `command` the command
# so far, `places` the options that choose the app's cache for the names of repos.
_READ = r"""
        case $option in
            "") ;;
            @WITH_VALUES@) if [[ $word == -* ]]; then option=; else continue; fi ;;
            *)
                [[ $word == "=" ]] && continue
                case $option in
                    --app-dir | --env-file) places+=("$option" "${word/#\~\//$HOME/}") ;;
                esac
                option=
                continue
                ;;
        esac
        case $word in
            --) theirs=1; break ;;
            --demo) places+=(--demo) ;;
            @WITH_VALUE@) option=$word ;;
            --app-dir=* | --env-file=*) places+=("$word") ;;
            -*) ;;
            help) helping=1 ;;
            *)
                case $word in @ALIASES@ esac
                case $command in
                    "") command=$word ;;
                    @GROUPS@) command="$command $word" ;;
                esac
                ;;
        esac
"""

_BASH = (
    r"""# bash completion for start_app.py and start-app. Put this line into ~/.bashrc:
#   eval "$(start-app --print-completion bash)"
_start_app() {
    local cur=${COMP_WORDS[COMP_CWORD]} command= option= theirs= helping= word i
    local -a places=() found=()
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}"""
    + _READ
    + r"""    done
    [[ $cur == "=" ]] && cur=
    case $option in @WITH_VALUES@) [[ $cur == -* ]] && option= ;; esac
    if [[ $theirs ]]; then
        _start_app_paths default -f
        return
    fi
    case $option in
            "") ;;
            @DIR@) _start_app_paths dirnames -d; return ;;
            @FILE@) _start_app_paths default -f; return ;;
            @REPO@) _start_app_repos; return ;;
@CHOICES@
            *) return ;;
    esac
    if [[ ! $option && $cur == -* ]]; then
        case $command in
@OPTIONS@
        esac
        found+=(@COMMON@)
    elif [[ ! $option ]]; then
        case $command in
@COMMANDS@
            @TAKES_REPOS@) [[ $helping ]] || _start_app_repos; return ;;
            @TAKES_DIR@) [[ $helping ]] || _start_app_paths dirnames -d; return ;;
        esac
    fi
    _start_app_offer ${found[@]+"${found[@]}"}
}
_start_app_offer() {
    local one
    for one in "$@"; do
        [[ $one == "$cur"* ]] && COMPREPLY+=("$one")
    done
    return 0
}
_start_app_paths() { # what bash does by itself, or, where it cannot be asked to, the plain names
    local one
    compopt -o "$1" 2>/dev/null && return
    while IFS= read -r one; do COMPREPLY+=("$one"); done < <(compgen "$2" -- "$cur")
}
_start_app_repos() {
    local one
    while IFS= read -r one; do
        _start_app_offer "$one"
    done < <("${COMP_WORDS[0]/#\~\//$HOME/}" cache names ${places[@]+"${places[@]}"} 2>/dev/null </dev/null)
}
complete -F _start_app start-app start_app.py ./start_app.py
"""
)

_ZSH = (
    r"""#compdef start-app start_app.py
# zsh completion for start_app.py and start-app. Put this line into ~/.zshrc, after compinit:
#   eval "$(start-app --print-completion zsh)"
_start_app() {
    local command= option= theirs= helping= word i
    local -a places found
    for ((i = 2; i < CURRENT; i++)); do
        word=${(Q)words[i]}"""
    + _READ
    + r"""    done
    case $option in @WITH_VALUES@) [[ $PREFIX == -* ]] && option= ;; esac
    if [[ $theirs ]]; then
        _files
        return
    fi
    if [[ ! $option && $PREFIX == --*=* ]]; then
        option=${PREFIX%%=*}
        compset -P 1 '*='
    fi
    case $option in
        "") ;;
        @DIR@) _path_files -/; return ;;
        @FILE@) _files; return ;;
        @REPO@) _start_app_repos; return ;;
@CHOICES@
            *) _message value; return ;;
    esac
    if [[ $option ]]; then
        compadd -a found
        return
    fi
    if [[ $PREFIX == -* ]]; then
        case $command in
@OPTIONS@
        esac
        found+=(@COMMON@)
        _describe -o option found
        return
    fi
    case $command in
@COMMANDS@
            @TAKES_REPOS@) [[ $helping ]] || _start_app_repos; return ;;
            @TAKES_DIR@) [[ $helping ]] || _path_files -/; return ;;
    esac
    _describe command found
}
_start_app_repos() {
    local -a repos
    repos=(${(f)"$("${${(Q)words[1]}/#\~\//$HOME/}" cache names "${places[@]}" 2>/dev/null </dev/null)"})
    compadd -a repos
}
if [[ $funcstack[1] == _start_app ]]; then
    _start_app "$@" # loaded from a file of this name in $fpath
else
    compdef _start_app start-app start_app.py
fi
"""
)
