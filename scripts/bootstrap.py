"""Make `.venv` and install the project into it, from nothing but a Python with pip; say plainly what is missing.

It runs before anything is installed, and perhaps on a Python that is too old: so only the standard library, and no
syntax newer than Python 3.6.
"""

import fcntl
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
VENV_PYTHON = os.path.join(VENV, "bin", "python")
LOG = os.path.join(VENV, "install.log")
#: Made anew by every install that succeeded; `make` compares its age with that of the files it depends on.
STAMP = os.path.join(VENV, "installed")

OLDEST, NEWEST = (3, 11), (3, 13)
CANDIDATES = ("python3.13", "python3.12", "python3.11", "python3", "python")
EXTRAS = "archives,postgres,embedded,evaluation,kubernetes,flower,demo"

#: What pip says, and what to make of it: the first pattern found wins.
DIAGNOSES = (
    (
        r"No space left on device",
        "The disk is full.",
        "Free about 1.5 GB where this folder lies, and where temporary files go (TMPDIR).",
    ),
    (
        r"Permission denied|Read-only file system",
        "A file could not be written.",
        "Make this folder yours, for example by cloning it again as the user you are now.",
    ),
    (
        r"(?i)certificate|SSLError",
        "The package registry's certificate was not accepted.",
        "Behind a proxy that opens TLS, point PIP_CERT at its certificate.",
    ),
    (
        r"(?i)name resolution|getaddrinfo|new ?connection|timed out|unreachable|ProxyError|refused|aborted",
        "The package registry could not be reached.",
        "Check the network, or name a proxy (HTTPS_PROXY) or a mirror of PyPI (PIP_INDEX_URL).",
    ),
    (
        r"(?i)40[13] (Client )?Error|forbidden",
        "The package registry refused.",
        "Check the mirror's address and password (PIP_INDEX_URL, or pip's own configuration).",
    ),
    (
        r"No matching distribution found|ResolutionImpossible",
        "The package registry does not offer what constraints.txt asks for, ready-made for this Python and machine.",
        "It may be away or refuse (see the log), or be a mirror that lags (PIP_INDEX_URL names another).",
    ),
)


class Trouble(Exception):
    """Something the user must mend; the message says what and how."""


def main() -> int:
    # Two `make` at once: the second waits, and then finds the work done.
    folder = os.open(ROOT, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    try:
        if not is_current():
            install()
    except Trouble as trouble:
        print("\n%s\n" % trouble, file=sys.stderr)
        return 1
    finally:
        os.close(folder)
    return 0


def is_current() -> bool:
    if not os.path.exists(STAMP) or not is_suitable(VENV_PYTHON):
        return False
    sources = ("pyproject.toml", "constraints.txt", os.path.join("scripts", "bootstrap.py"))
    return all(os.path.getmtime(os.path.join(ROOT, name)) <= os.path.getmtime(STAMP) for name in sources)


def install() -> None:
    if not is_suitable(VENV_PYTHON) or not has_module(VENV_PYTHON, "pip"):
        make_venv(choose_python())
    print("Installing the project and its tools into .venv: one to three minutes the first time.", flush=True)
    constraints = os.path.join(ROOT, "constraints.txt")
    open(LOG, "w").close()
    # The pip that a Python brings may know neither dependency groups nor build constraints.
    pip("install", "--constraint", constraints, "pip")
    pip(
        "install",
        "--only-binary=:all:",  # a package that would need a compiler must fail at once, and say so
        "--constraint=" + constraints,
        "--build-constraint=" + constraints,
        "--editable=.[%s]" % EXTRAS,
        "--group=dev",
    )
    with open(STAMP, "w") as stamp:
        stamp.write("Made by scripts/bootstrap.py after the last install that succeeded.\n")


def choose_python() -> str:
    """The first interpreter that can make the environment: PYTHON if given, else the newest one found."""
    wanted = os.environ.get("PYTHON")
    found = [python for python in ([wanted] if wanted else CANDIDATES) if is_suitable(python)]
    for python in found:
        if has_module(python, "venv") and (has_module(python, "ensurepip") or has_module(python, "pip")):
            return python
    if found:
        version = "%d.%d" % version_of(found[0])
        raise Trouble(
            "Python %s is here, but it lacks venv or pip, and neither can be done without.\n"
            "  Debian, Ubuntu:  apt install python%s-venv\n"
            "  Others:          install Python's own distribution, which brings both." % (version, version)
        )
    seen = wanted or ", ".join(sorted({"%d.%d" % version_of(python) for python in CANDIDATES if version_of(python)}))
    raise Trouble(
        "This project needs Python %d.%d to %d.%d, and the one found is not (%s).\n"
        "  Debian, Ubuntu:  apt install python3.11 python3.11-venv   (or 3.12, 3.13)\n"
        "  Elsewhere:       name one that is not on the PATH: make PYTHON=/path/to/python3.12 ..."
        % (OLDEST + NEWEST + (seen or "none",))
    )


def make_venv(python: str) -> None:
    print("Making .venv with Python %d.%d." % version_of(python), flush=True)
    command = [python, "-m", "venv", "--clear", VENV]
    if has_module(python, "ensurepip"):
        run(command, "Making .venv failed.")
        return
    # Debian ships venv and pip without ensurepip: let the outer pip fill the environment.
    run([*command, "--without-pip"], "Making .venv failed.")
    run([python, "-m", "pip", "--python", VENV_PYTHON, "install", "--quiet", "pip"], "Putting pip into .venv failed.")


def pip(*arguments: str) -> None:
    run([VENV_PYTHON, "-m", "pip", "--no-input", "--disable-pip-version-check", *arguments], "Installing failed.")


def run(command: "list[str]", failure: str) -> None:
    outcome = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    output = outcome.stdout.decode("utf-8", "replace")
    if os.path.isdir(VENV):
        with open(LOG, "a") as log:
            log.write(output)
    if outcome.returncode:
        errors = [line for line in output.splitlines() if re.match("ERROR|WARNING|Error", line)]
        shown = "\n".join("  | " + line for line in (errors or output.strip().splitlines())[-4:])
        raise Trouble("%s\n%s\n%s\nThe whole output is in .venv/install.log." % (failure, shown, diagnose(output)))


def diagnose(output: str) -> str:
    for pattern, cause, cure in DIAGNOSES:
        found = re.search(pattern, output)
        if found:
            return "%s\n%s" % (cause, cure)
    return "What that means is not known here."


def is_suitable(python: str) -> bool:
    return OLDEST <= version_of(python) <= NEWEST


def version_of(python: str) -> "tuple[int, ...]":
    """Major and minor version; an empty tuple where there is no working Python of that name."""
    answer = ask(python, "import sys; print('%d.%d' % sys.version_info[:2])")
    return tuple(int(part) for part in answer.split(".")) if re.match(r"\d+\.\d+$", answer) else ()


def has_module(python: str, name: str) -> bool:
    return ask(python, "import %s; print('yes')" % name) == "yes"


def ask(python: str, program: str) -> str:
    try:
        outcome = subprocess.run(
            [python, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
        )
    except OSError:
        return ""
    return outcome.stdout.decode("ascii", "replace").strip()


if __name__ == "__main__":
    sys.exit(main())
