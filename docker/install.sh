#!/bin/sh
# Builds the virtual environment of an image: docker/install.sh EXTRA, in a build stage that is thrown away.
# Takes setup.cfg, pyproject.toml and constraints.txt of the working folder, and wheels of /wheels before anybody else's.
#   TORCH        another pin of torch than constraints.txt has, for example torch==2.11.0+cpu
#   EXTRA_INDEX  a further package index, for example https://download.pytorch.org/whl/cpu
set -eu
extra=$1
venv=/opt/fast-vc

pins=/tmp/constraints.txt
cp constraints.txt "$pins"
pin() {  # pin NAME REQUIREMENT: in place of the line that constraints.txt has
  name=$(echo "$1" | tr '_A-Z' '-a-z')
  awk -v name="$name" '{ line = tolower($0); gsub("_", "-", line); sub("[ =<>!~;].*", "", line); if (line != name) print }' \
    "$pins" > "$pins.part"
  echo "$2" >> "$pins.part"
  mv "$pins.part" "$pins"
}
for wheel in /wheels/*.whl; do
  [ -e "$wheel" ] || continue
  file=${wheel##*/}; rest=${file#*-}
  pin "${file%%-*}" "${file%%-*}==${rest%%-*}"
  echo "install: $file is preferred"
done
[ -z "${TORCH:-}" ] || pin torch "$TORCH"

python3 -m venv /opt/pip
python3 -m venv --without-pip "$venv"
/opt/pip/bin/pip --python "$venv/bin/python" install --disable-pip-version-check --no-compile \
  --find-links /wheels ${EXTRA_INDEX:+--extra-index-url "$EXTRA_INDEX"} --constraint "$pins" ".[$extra]"

# What no running service opens: the tests and headers of libraries, sources of compiled modules. Nothing is stripped: it breaks the libraries that wheels bundle.
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
find "$site" -type d \( -name tests -o -name test \) -path '*/numpy/*' -prune -exec rm -rf {} +
find "$site" -type f \( -name '*.pyx' -o -name '*.pxd' -o -name '*.c' -o -name '*.h' -o -name '*.hpp' -o -name '*.cuh' \
  -o -name '*.pyi' -o -name '*.a' -o -name '*.cmake' \) -delete
"$venv/bin/python" -m compileall -q "$site" || true  # some packages ship files for other versions of Python
