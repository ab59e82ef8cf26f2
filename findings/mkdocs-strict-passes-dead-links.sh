#!/usr/bin/env bash
# mkdocs 1.6.1: `mkdocs build --strict` is what projects run in CI to find dead links, and three kinds of them pass. A link to
# a page that `exclude_docs` or a leading dot keeps off the site is remarked on as INFO, which no setting under `validation`
# raises, so that the built page links to nothing. A link to a heading that does not exist is INFO by default, and fails
# only with `validation: {links: {anchors: warn}}`. And a link to the file of a folder ("guide/") is INFO as "unrecognized".
# A missing page alone is a warning. So: set anchors and unrecognized_links to warn, and look for "excluded" in the log.
# Seen: the lines at the end. This script fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "mkdocs==1.6.1"

# build TITLE LINK [VALIDATION]: a site of two pages, of which the first has the link.
build() {
    rm -rf "$folder/site" && mkdir -p "$folder/site/docs/drafts" "$folder/site/docs/guide"
    printf '# Start\n\n[there](%s)\n' "$2" > "$folder/site/docs/index.md"
    printf '# Guide\n' > "$folder/site/docs/guide/index.md"
    printf '# Draft\n' > "$folder/site/docs/drafts/one.md"
    printf 'site_name: x\nexclude_docs: drafts/\nvalidation: {links: {%s}}\n' "${3:-}" > "$folder/site/mkdocs.yml"
    if (cd "$folder/site" && "$folder/venv/bin/mkdocs" build --strict > log 2>&1); then
        echo "$1: passes"
    else
        echo "$1: fails"
    fi
}
ALL="not_found: warn, anchors: warn, absolute_links: warn, unrecognized_links: warn"
{
    build "missing page" "nothing.md"
    build "excluded page" "drafts/one.md"
    build "excluded page, all validation" "drafts/one.md" "$ALL"
    build "missing heading" "guide/index.md#nothing"
    build "missing heading, all validation" "guide/index.md#nothing" "$ALL"
    build "folder" "guide/"
    build "folder, all validation" "guide/" "$ALL"
} | tee "$folder/seen"
diff "$folder/seen" - <<'EXPECTED'
missing page: fails
excluded page: passes
excluded page, all validation: passes
missing heading: passes
missing heading, all validation: fails
folder: passes
folder, all validation: fails
EXPECTED
