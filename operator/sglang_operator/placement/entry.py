"""What a container of an engine on a trainer's GPUs starts first, and what that does.

Handles of GPU memory carry the number of the process that made them, and an engine whose own number
is the same takes one for its own.  Trainer and engines count processes each by themselves, so they
would meet.  So each takes a span of numbers that nobody else in their common folder has: its first
free one, by a lock on a file there that ends with the process.  The script uses up the numbers
before its own, and starts the engine as its child.  Which number is next, a child of its own tells:
/proc/loadavg may be another namespace's (lxcfs).

A lock's file that somebody removes while it is held is one that the next engine does not see: who
clears the folder has to end the engines first.

It runs in the engine's image, on whatever Python 3 that has.
"""

from typing import Final

SPAN: Final = 8192  # process numbers of one engine, or of processes of a trainer
# Of spans; a kernel that has fewer numbers (/proc/sys/kernel/pid_max) has fewer of them.
MOST_SPANS: Final = 256
# The file that is locked for a span, in /dev/shm; the client of trainers locks the same.
LOCK: Final = "sglang-operator-pids-{span}"
# How what it says at its end begins (``engine.node_ends``).
SAID: Final = "sglang-operator: no process numbers: "
EXIT_CODE: Final = 78  # of sysexits.h: configuration

_SCRIPT: Final = r"""
import _thread, fcntl, os, re, signal, sys, warnings
FOLDER, SPAN, MOST, LOCK, SAID, CODE = %(values)s
def fail(why):
    sys.stderr.write(SAID + why + "\n")
    sys.stderr.flush()
    os._exit(CODE)
def last():
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    return child
def locked(span):
    path = os.path.join(FOLDER, LOCK.format(span=span))
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        file = os.open(path, flags, 0o666)
    except OSError as error:
        if isinstance(error, PermissionError) and not os.access(FOLDER, os.W_OK):
            fail(FOLDER + " cannot be written by user %%d" %% os.getuid())
        if not os.path.lexists(path):
            fail(FOLDER + ": " + str(error))
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file), os.lstat(path)):
            return True
    except OSError:
        pass
    os.close(file)
    return False
warnings.simplefilter("ignore")
with open("/proc/sys/kernel/pid_max") as file:
    most = int(file.read())
used, span = last(), 1
while not (used <= span * SPAN + SPAN // 2 and locked(span)):
    span += 1
    if (span + 1) * SPAN > most or span >= MOST:
        fail("all %%d spans are taken; kernel.pid_max is %%d" %% (span - 1, most))
begin = span * SPAN
for name in os.listdir(FOLDER):
    found = re.match(r"torch_(\d+)_", name)
    if found and begin <= int(found[1]) < begin + SPAN:
        try:
            os.unlink(os.path.join(FOLDER, name))
        except OSError:
            pass
ended = _thread.allocate_lock()
ended.acquire()
for _ in range(2 * span + 8):
    left = begin - last()
    if left <= 0:
        break
    for _ in range(min(SPAN // 2, left)):
        _thread.start_new_thread(ended.release, ())
        ended.acquire()
child = os.fork()
if not child:
    if os.getpid() // SPAN != span:
        fail("%%d is not of span %%d: they do not grow here" %% (os.getpid(), span))
    try:
        os.execvp(sys.argv[1], sys.argv[1:])
    except OSError as error:
        fail(sys.argv[1] + ": " + str(error))
for name in ("TERM", "INT", "HUP", "QUIT", "USR1", "USR2"):
    signal.signal(getattr(signal, "SIG" + name), lambda got, _: os.kill(child, got))
_, status = os.waitpid(child, 0)
if os.WIFSIGNALED(status):
    number = os.WTERMSIG(status)
    if number != signal.SIGKILL:
        signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))
"""


def script(folder: str = "/dev/shm") -> str:
    """The program, for this folder."""
    values = (folder, SPAN, MOST_SPANS, LOCK, SAID, EXIT_CODE)
    return _SCRIPT.strip() % {"values": repr(values)}


COMMAND: Final = ("python3", "-c", script())
