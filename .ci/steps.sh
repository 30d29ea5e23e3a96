# Steps of the checks, each within a budget of time; sourced by .ci/run.

# Seconds that the steps of each kind may take together on a quiet machine of two cores. What takes longer is said, and
# what takes CI_FACTOR times as long is ended: CI_FACTOR=5 bash .ci/run, on a slower or shared machine.
FACTOR=${CI_FACTOR:-3}
declare -A BUDGET=(
  [newest]=$((9 * 60))  # the newest stack: wheel, environment, demo and tests
  [install]=$((5 * 60)) # the pinned stack: make install
  [demo]=$((4 * 60))    # the pinned stack: make demo, and the phantom's for the comparison
  [pinned]=$((12 * 60)) # the pinned stack: lint, the site of the documentation with the environment of its tools, tests
)
declare -A LEFT SPENT
for budget in "${!BUDGET[@]}"; do LEFT[$budget]=$((BUDGET[$budget] * FACTOR)); done
TOOK=

# within BUDGET WHAT COMMAND...: run a step. It ends the checks if it fails or overruns. How long it took is said when the
# next one begins, so that the summary of the last one is the last line.
within() {
  local budget=$1 what=$2 started=$SECONDS code=0 whole=() took
  shift 2
  printf '%s\n== %s\n' "$TOOK" "$what"
  # At a terminal Ctrl-C must reach the step; elsewhere everything that the step started ends with it.
  [ -t 0 ] && whole=(--foreground)
  timeout "${whole[@]}" --kill-after=20 "${LEFT[$budget]}" "$@" || code=$?
  took=$((SECONDS - started))
  if [ "$code" != 0 ] && [ "$took" -ge "${LEFT[$budget]}" ]; then
    echo "== $what OVERRAN: ended after $took s, all that its budget '$budget' had left (.ci/steps.sh; CI_FACTOR stretches it)" >&2
    exit 1
  elif [ "$code" != 0 ]; then
    echo "== $what FAILED after $took s" >&2
    exit "$code"
  fi
  LEFT[$budget]=$((LEFT[$budget] > took ? LEFT[$budget] - took : 1))
  SPENT[$budget]=$((${SPENT[$budget]:-0} + took))
  TOOK="== $what took $took s; budget '$budget': ${SPENT[$budget]} of ${BUDGET[$budget]} s"
  [ "${SPENT[$budget]}" -le "${BUDGET[$budget]}" ] || TOOK+=": OVER"
  TOOK+=$'\n'
}

# python_of MINOR...: a Python 3 of one of these minor versions that runs, the first one best. A shim of pyenv on the
# path may answer "command not found", so each is tried by running it.
python_of() {
  local minor one probe='import ensurepip, sys, sysconfig, venv; sys.exit(bool(sysconfig.get_config_var("Py_GIL_DISABLED")))'
  local pyenv
  pyenv=$(pyenv root 2>/dev/null || echo "$HOME/.pyenv")
  for minor in "$@"; do
    for one in "python3.$minor" "$pyenv"/versions/"3.$minor".*/bin/"python3.$minor"; do
      "$one" -c "$probe" >/dev/null 2>&1 && { echo "$one"; return; }
    done
  done
  return 1
}

# versions PYTHON: what its environment holds, in few lines.
versions() {
  "$1" --version
  "$1" -m pip --disable-pip-version-check list --format=freeze | paste -sd' ' | fold -s -w 150
}
