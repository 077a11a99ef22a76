#!/usr/bin/env bash
# Installs a real Triton server for the tests of `bertjobs export --to triton`, in an environment of its own: the PyPI
# package nvidia-pytriton has the server and its Python backend, and needs a numpy below 2.
#
# The backend links the shared library of the system's Python, so that one is taken. If it cannot install, it says so in
# one line and exits 0, since those tests are then skipped; with BERTJOBS_REQUIRE_TRITON=1 it exits 1 instead.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=.venv/triton wanted=tests/export/requirements.txt

cannot() {
  rm -rf "$folder"
  echo "install_triton: not installed: $1" >&2
  if [[ ${BERTJOBS_REQUIRE_TRITON:-} == 1 ]]; then exit 1; fi
  exit 0
}

if cmp -s "$wanted" "$folder/installed"; then exit 0; fi
echo "install_triton: installing a Triton server for the tests (a minute or two)"
rm -rf "$folder"
python=
for candidate in /usr/bin/python3.{11,12,13}; do
  if "$candidate" -c 'import ensurepip' 2>/dev/null; then
    python=$candidate
    break
  fi
done
[[ -n $python ]] || cannot "there is no /usr/bin/python3.11, 3.12 or 3.13 with venv"
version=$("$python" -c 'import sys; print(f"{sys.version_info.major}.{sys.version_info.minor}")')
if ! ldconfig -p | grep -q "libpython$version.so.1.0" && [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y "libpython$version"; } >/dev/null ||
    cannot "apt-get failed to install libpython$version"
fi
"$python" -m venv "$folder" || cannot "venv failed"
"$folder/bin/python" -m pip -qq --disable-pip-version-check install --requirement "$wanted" || cannot "pip failed"
packages=$folder/lib/python$version/site-packages server=$folder/lib/python$version/site-packages/pytriton/tritonserver
# The server starts the stub that lies beside the backend.
cp "$server/python_backend_stubs/$version/triton_python_backend_stub" "$server/backends/python/"
if ldd "$server/bin/tritonserver" "$server/backends/python/triton_python_backend_stub" | grep -q 'not found'; then
  cannot "a library is missing: see ldd $server/bin/tritonserver"
fi
ln -s "$(realpath --relative-to "$folder" "$server")" "$folder/server"
ln -s "$(realpath --relative-to "$folder" "$packages")" "$folder/packages"
cp "$wanted" "$folder/installed"
