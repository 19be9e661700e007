# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
#
# Sourced by scripts/test and scripts/lint, which say what check LAYER NAME COMMAND... does with what
# is found: style and types of all that belongs to the project.

# project_files GLOB...: files of the checkout, new ones included, ignored ones not. A checkout
# may belong to another user than root.
project_files() {
    git -c safe.directory='*' ls-files -z -co --exclude-standard -- "$@" |
        while IFS= read -r -d '' file; do [ ! -f "$file" ] || printf '%s\n' "$file"; done
}

# files_run_by INTERPRETER: files whose first line names it.
files_run_by() {
    local file first
    project_files | while IFS= read -r file; do
        IFS= read -r first <"$file" 2>/dev/null || continue
        [[ $first != '#!'*"$1"* ]] || printf '%s\n' "$file"
    done
}

lint() {
    local -a c_files shell_files python_files
    mapfile -t c_files < <(project_files '*.c' '*.h')
    # Files that are only sourced are checked with those that source them.
    mapfile -t shell_files < <(files_run_by sh)
    mapfile -t python_files < <(files_run_by python | grep -v '\.py$')
    check unit "ruff check" "$venv/bin/ruff" check . "${python_files[@]}"
    check unit "ruff format" "$venv/bin/ruff" format --check --diff . "${python_files[@]}"
    check unit "shellcheck" shellcheck --external-sources --check-sourced "${shell_files[@]}"
    [ "${#c_files[@]}" -eq 0 ] ||
        check unit "clang-format" clang-format --dry-run -Werror "${c_files[@]}"
    # a clean clone finds what another one has read: contents count, not times
    check unit "mypy" env MYPY_CACHE_DIR="${XDG_CACHE_HOME:-$HOME/.cache}/pyproxy/mypy" \
        "$venv/bin/mypy" --scripts-are-modules pyproxy tests scripts \
        "${python_files[@]}"
}
