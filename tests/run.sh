#!/bin/sh
# Sets up the test environment, runs the linter and the tests, and prints how much of the product they reach (branch
# coverage, which must be at least 90 %): sh tests/run.sh
# Missing system packages are installed if this runs as root on Debian, and listed otherwise. The Python packages go
# into a virtual environment in .venv-tests. Arguments are passed on to pytest.
set -eu
cd "$(dirname "$0")/.."
if [ "$(uname)" = Linux ]; then
    missing=""
    for tool in Xvfb:xvfb xdotool:xdotool; do
        command -v "${tool%%:*}" >/dev/null || missing="$missing ${tool##*:}"
    done
    ldconfig -p 2>/dev/null | grep -q libportaudio || missing="$missing libportaudio2"
    python3 -c "import tkinter" 2>/dev/null || missing="$missing python3-tk"
    python3 -c "import ensurepip" 2>/dev/null || missing="$missing python3-venv"
    if [ -n "$missing" ]; then
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            # shellcheck disable=SC2086
            apt-get update -q >/dev/null && apt-get install -y -q $missing >/dev/null
        else
            echo "the tests need these system packages:$missing" >&2
            echo "on Debian or Ubuntu: sudo apt-get install$missing" >&2
            exit 2
        fi
    fi
fi
[ -x .venv-tests/bin/python ] || python3 -m venv .venv-tests
.venv-tests/bin/python -m pip install -q -r tests/requirements.txt
# When librosa is first used, it compiles its functions and keeps them. Coverage would make that much slower.
.venv-tests/bin/python -c "
import librosa, numpy
for n_channels in (1, 2):
    D = librosa.stft(numpy.ones((n_channels, 4096), numpy.float32).squeeze())
    librosa.feature.spectral_flatness(S=numpy.abs(D))
" &
.venv-tests/bin/ruff check .
# The tests start the commands hundreds of times, and each start would compile all modules again.
unset PYTHONDONTWRITEBYTECODE
python=.venv-tests/bin/python
# Three processes, because tests often wait, each with whole files of tests: the tests of a file share what is slow to
# make. tests/conftest.py says in what order.
tests="-m pytest -n 3 --dist loadfile --no-loadscope-reorder"
[ $# = 0 ] || exec $python $tests "$@"  # coverage says nothing about some of the tests
$python -m coverage erase
status=0
$python -m coverage run $tests || status=$?
$python -m coverage combine -q 2>/dev/null || :  # the file of a process that a test has killed may be cut off
rm -f .coverage.*
$python -m coverage report || [ $status != 0 ] || status=$?
exit $status
