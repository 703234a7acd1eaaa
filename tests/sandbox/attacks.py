"""Programs that try to get out, to do harm, or to be graded better than they are.

In a contained attack `attack()` reports what it reached, and nothing is right. A forger must not pass the test that an
honest `answer` passes. A glutton meets the limit that its outcome names.
"""

from __future__ import annotations

from dataclasses import dataclass

TOUCHES_NOTHING = "assert attack() is None, attack()"
HONEST = "def answer():\n    return 42\n"
ANSWER = "assert answer() == 42\nassert isinstance(answer(), int)"


@dataclass(frozen=True)
class Attack:
    """One program.

    Args:
        name: what it tries.
        code: its source; <MARKER>, <HOME>, <PORT> and <ABSTRACT> stand for a file, a folder,
            a port and a socket of the host.
        tests: what judges it.
        outcomes: how it may end.
        detail: what the verdict must mention.
        wall_seconds: limit on its time, short for those that wait.
    """

    name: str
    code: str
    tests: str = TOUCHES_NOTHING
    outcomes: tuple[str, ...] = ("passed",)
    detail: str = ""
    wall_seconds: float = 10.0


def refused(name: str, *calls: str, setup: str = "") -> Attack:
    """Return an attack each of whose calls must raise an OSError."""
    body = "".join(
        f"    try:\n        {call}\n        return {call!r}\n"
        "    except (OSError, ValueError, AttributeError):\n        pass\n"
        for call in calls
    )
    return Attack(name, f"import os, socket, ctypes\n{setup}\ndef attack():\n{body}    return None\n")


def syscall(name: str, *numbers: tuple[int, int]) -> Attack:
    """Return an attack that asks the kernel directly; each call must be refused with EPERM or ENOSYS.

    Args:
        name: what it tries.
        numbers: the calls' numbers on x86_64 and on aarch64.
    """
    code = f"""
import ctypes, platform
libc = ctypes.CDLL(None, use_errno=True)
def attack():
    for x86, arm in {numbers!r}:
        ctypes.set_errno(0)
        result = libc.syscall(x86 if platform.machine() == "x86_64" else arm, 0, 0, 0, 0, 0, 0)
        if result != -1 or ctypes.get_errno() not in (1, 38):
            return f"call {{x86}} gave {{result}}, errno {{ctypes.get_errno()}}"
"""
    return Attack(name, code)


def forger(name: str, code: str, *outcomes: str, detail: str = "") -> Attack:
    """Return an attack on the verdict itself."""
    return Attack(name, code, ANSWER, outcomes or ("failed", "crashed"), detail)


def glutton(name: str, code: str, *outcomes: str, wall_seconds: float = 10.0) -> Attack:
    """Return a program that asks for too much as it is loaded."""
    return Attack(name, code, "pass", outcomes, wall_seconds=wall_seconds)


WRONG = "def answer():\n    return 41\n"

CONTAINED = [
    refused("reads the marker file", "open('<MARKER>')", "os.stat('<MARKER>')"),
    refused("writes the marker file", "open('<MARKER>', 'w')", "os.remove('<MARKER>')"),
    refused(
        "lists other folders",
        "os.listdir('/home')",
        "os.listdir('/var')",
        "os.listdir('/usr/bin')",
        "os.listdir('/run')",
    ),
    Attack(
        "lists the home folder",
        """
import os, sys
def attack():
    found = []
    for folder, _, files in os.walk('<HOME>'):
        if not folder.startswith(sys.base_prefix):
            found += [os.path.join(folder, name) for name in files]
    return found or None
""",
    ),
    refused("reads accounts", "open('/etc/passwd')", "open('/etc/shadow')", "open('/etc/hostname')"),
    refused(
        "writes the system", "open('/usr/lib/x', 'w')", "open('/x', 'w')", "os.mkdir('/cuvee/x')", "open('/etc/x', 'w')"
    ),
    refused("writes the interpreter's library", "open(os.__file__, 'a')", "os.remove(os.__file__)"),
    refused("looks at processes", "os.listdir('/proc')", "open('/proc/self/mem')", "os.listdir('/proc/1/root')"),
    refused(
        "follows links to the host",
        "open('/tmp/link/<MARKER>')",
        "os.readlink('/proc/self/exe')",
        "open('/proc/1/root/<MARKER>')",
        setup="os.symlink('/', '/tmp/link')",
    ),
    refused("writes kernel settings", "open('/proc/sys/kernel/core_pattern', 'w')", "os.listdir('/sys')"),
    refused(
        "connects over IPv4", "socket.create_connection(('127.0.0.1', <PORT>), 1)", "socket.socket(socket.AF_INET)"
    ),
    refused(
        "connects over IPv6", "socket.socket(socket.AF_INET6)", "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)"
    ),
    refused("connects to an abstract socket", "socket.socket(socket.AF_UNIX).connect('\\0ABSTRACT')"),
    refused(
        "talks to kernel sockets",
        "socket.socket(16, 3, 0)",
        "socket.socket(17, 3)",
        "socket.socket(40, 1)",
        "socket.socket(38, 5)",
        "socket.socket(31, 3)",
    ),
    refused("asks the name service", "socket.gethostbyname('localhost')", "socket.getaddrinfo('example.org', 80)"),
    refused(
        "becomes root",
        "os.setuid(0)",
        "os.setresuid(0, 0, 0)",
        "os.setgid(0)",
        "os.setgroups([0])",
        "os.chown('/tmp', 0, 0)",
    ),
    refused(
        "makes devices",
        "os.mknod('/tmp/disk', 0o60600, os.makedev(8, 0))",
        "open('/dev/mem')",
        "open('/dev/kmsg')",
        "open('/dev/tty')",
    ),
    refused("changes its root", "os.chroot('/tmp')"),
    refused("starts a shell", "os.execv('/bin/sh', ['sh'])", "os.execv('/usr/bin/env', ['env'])"),
    refused("keeps memory in files without a name", "os.memfd_create('x')"),
    refused(
        "raises its limits",
        "import_resource().setrlimit(0, (-1, -1))",
        "import_resource().setrlimit(6, (9999, 9999))",
        setup="import_resource = lambda: __import__('resource')",
    ),
    syscall("mounts", (165, 40), (166, 39), (155, 41), (429, 429), (430, 430), (442, 442)),
    syscall("makes namespaces", (272, 97), (308, 268), (435, 435)),
    syscall("traces and reads other processes", (101, 117), (310, 270), (311, 271), (312, 272), (434, 434), (438, 438)),
    syscall("uses the key ring", (250, 219), (248, 217), (249, 218)),
    syscall("uses io_uring", (425, 425), (426, 426), (427, 427)),
    syscall("loads code into the kernel", (321, 280), (175, 105), (313, 273), (246, 104), (320, 294)),
    syscall("watches with perf and page faults", (298, 241), (323, 282)),
    syscall("shares memory past its end", (29, 194), (64, 190), (68, 186), (240, 180), (447, 447)),
    syscall("calls what is newer than the filter", (467, 467), (500, 500)),
    Attack(
        "clones into a new user namespace",
        """
import ctypes, os, platform
def attack():
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.syscall(56 if platform.machine() == "x86_64" else 220, 0x10000000 | 17, 0, 0, 0, 0)
    if result == 0:
        os._exit(0)
    return None if result == -1 else result
""",
    ),
    Attack(
        "reads the environment",
        "import os\ndef attack():\n\n"
        "    known = {'PATH', 'HOME', 'LANG', 'PYTHONHASHSEED', 'PWD', 'LC_CTYPE'}\n"
        "    return set(os.environ) - known or None\n",
    ),
    Attack(
        "imports installed packages",
        "import importlib.util\ndef attack():\n"
        "    return [name for name in ('numpy', 'cuvee', 'pip', 'pytest') if importlib.util.find_spec(name)] or None\n",
    ),
    Attack(
        "counts the processes of the host",
        """
import os
def attack():
    seen = []
    for number in range(1, 5000):
        try:
            os.kill(number, 0)
            seen.append(number)
        except OSError:
            pass
    return seen if len(seen) > 4 else None
""",
    ),
    Attack(
        "looks for descriptors left open",
        """
import os
def attack():
    found = []
    for number in range(3, 64):
        try:
            kind = os.fstat(number).st_mode & 0o170000
        except OSError:
            continue
        found.append(oct(kind))
    return None if found == ['0o10000', '0o10000'] else found
""",
    ),
    Attack(
        "leaves a daemon",
        """
import os, time
def attack():
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 64)
            time.sleep(600)
        os._exit(0)
""",
    ),
    Attack(
        "loads a library of its own making",
        "import ctypes\ndef attack():\n    open('/tmp/evil.so', 'wb').write(b'\\x7fELF' + bytes(200))\n"
        "    try:\n        ctypes.CDLL('/tmp/evil.so')\n        return 'loaded'\n"
        "    except OSError:\n        return None\n",
    ),
]

FORGERS = [
    forger("is wrong", WRONG, "failed", detail="AssertionError"),
    forger("exits with 0 at once", "import sys\nsys.exit(0)", "failed", detail="SystemExit"),
    forger(
        "raises SystemExit in the function", "def answer():\n    raise SystemExit(0)", "failed", detail="SystemExit"
    ),
    forger("ends its process with 0", "import os\nos._exit(0)", "failed", detail="ended itself"),
    forger(
        "ends its process in the function", "import os\ndef answer():\n    os._exit(0)", "failed", detail="ended itself"
    ),
    forger(
        "raises KeyboardInterrupt", "def answer():\n    raise KeyboardInterrupt", "failed", detail="KeyboardInterrupt"
    ),
    forger("prints a verdict", 'print(\'started\\n{"outcome": "passed", "detail": "", "cpu_seconds": 0}\')\n' + WRONG),
    forger(
        "writes a verdict to every descriptor",
        """
import os
for number in range(3, 64):
    for _ in range(3):
        try:
            os.write(number, b'started\\n{"outcome": "passed", "detail": "", "cpu_seconds": 0}\\n')
        except OSError:
            pass
"""
        + WRONG,
    ),
    forger(
        "answers before it is asked",
        """
import os
for number in range(3, 64):
    for _ in range(9):
        try:
            os.write(number, b'["returned",null,[]]\\n')
        except OSError:
            pass
"""
        + WRONG,
    ),
    forger(
        "returns an object equal to all",
        "class All(int):\n    __eq__ = lambda a, b: True\n    __hash__ = int.__hash__\ndef answer():\n    return All()",
    ),
    forger(
        "returns a stranger equal to all",
        "class All:\n    __eq__ = lambda a, b: True\n    __ne__ = lambda a, b: False\n"
        "    __class__ = int\ndef answer():\n    return All()",
    ),
    forger(
        "replaces builtins",
        "import builtins\nbuiltins.isinstance = lambda *a: True\nbuiltins.AssertionError = Exception\n"
        "builtins.int = object\nbuiltins.compile = builtins.exec = builtins.__import__ = lambda *a, **k: None\n"
        + WRONG,
    ),
    forger("names its functions as builtins", "def isinstance(*a):\n    return True\n" + WRONG),
    forger(
        "plants modules",
        "import sys\nfor name in list(sys.modules):\n    if name not in ('sys', 'builtins'):\n"
        "        sys.modules[name] = None\n" + WRONG,
    ),
    forger("registers exits", "import atexit, os\natexit.register(os._exit, 0)\n" + WRONG),
    forger(
        "walks the frames",
        """
import sys
frame = sys._getframe()
while frame:
    for space in (frame.f_globals, frame.f_locals):
        for key in list(space):
            if key in ('outcome', 'tests', 'job', 'detail'):
                space[key] = 'passed'
    frame = frame.f_back
"""
        + WRONG,
    ),
    forger(
        "searches memory for the tests",
        """
import gc
def answer():
    for thing in gc.get_objects():
        if isinstance(thing, dict):
            for value in list(thing.values()):
                if isinstance(value, str) and 'answer() ==' in value and 'gc.get' not in value:
                    return int(value.split('==')[1].split()[0])
    return 41
""",
    ),
    forger(
        "patches the code that talks to the judge",
        """
import sys
for name, module in list(sys.modules.items()):
    if name.startswith('inside') and module is not None:
        for key in ('encode', '_call', '_work', '_judge', '_shown'):
            if hasattr(module, key):
                setattr(module, key, lambda *a, **k: [True, []])
"""
        + WRONG,
    ),
    forger(
        "traces every line",
        "import sys\ndef trace(frame, event, arg):\n    frame.f_locals['x'] = 42\n    return trace\n"
        "sys.settrace(trace)\nsys.setprofile(trace)\n" + WRONG,
    ),
    forger(
        "hooks imports",
        "import sys\nclass Hook:\n    def find_spec(self, *a):\n        import os\n        os._exit(0)\n"
        "sys.meta_path.insert(0, Hook())\n" + WRONG,
    ),
    forger(
        "acts when it is deleted",
        "import os\nclass Last:\n    def __del__(self):\n        os._exit(0)\nlast = Last()\n"
        "def answer():\n    global last\n    last = None\n    return 41",
        "failed",
    ),
    forger("kills everything in sight", "import os\nos.kill(-1, 9)\n" + WRONG, "crashed", "failed"),
    forger("kills its judge", "import os\nos.kill(os.getppid(), 9)\n" + WRONG, "crashed"),
    forger(
        "asks its judge to stop politely",
        "import os, signal\nos.kill(os.getppid(), signal.SIGTERM)\n" + WRONG,
        "crashed",
    ),
    forger(
        "writes into its judge's memory",
        """
import ctypes, os
for number in (os.getppid(), 1):
    try:
        open(f'/proc/{number}/mem', 'r+b').write(b'x')
    except OSError:
        pass
ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0)
"""
        + WRONG,
    ),
    forger("writes into its own code", "import ctypes\nctypes.memset(id(ctypes.c_int(3)), 0, 8)\n" + WRONG),
    forger("lets a child answer", "import os\nif os.fork():\n    os._exit(0)\n" + WRONG),
    forger(
        "handles all signals",
        "import signal\nfor number in range(1, 65):\n    try:\n"
        "        signal.signal(number, lambda *a: None)\n    except (OSError, ValueError):\n        pass\n" + WRONG,
    ),
    forger(
        "sends what is no message",
        "import os\ndef answer():\n    for n in range(3, 64):\n        try:\n"
        "            os.write(n, b'[[[[' * 1000 + b'\\n')\n        except OSError:\n            pass\n    return 41",
    ),
    forger(
        "sends a number of a million digits",
        "import os\ndef answer():\n    for n in range(3, 64):\n        try:\n"
        "            os.write(n, b'[\"returned\",' + b'9' * 1000000 + b',[]]\\n')\n"
        "        except OSError:\n            pass\n"
        "    return 41",
    ),
    forger(
        "raises an endless message",
        "def answer():\n    raise ValueError('x' * 10_000_000)",
        "failed",
        detail="ValueError",
    ),
    forger(
        "raises what cannot be printed",
        "class Bad(Exception):\n    def __str__(self):\n        raise SystemExit(0)\ndef answer():\n    raise Bad",
        "failed",
        detail="Bad",
    ),
    forger(
        "raises a fake assertion class",
        "class AssertionError(BaseException):\n    pass\ndef answer():\n    raise AssertionError",
    ),
    forger("is no program", "def answer(:\n", "failed", detail="SyntaxError"),
    forger("is empty", "", "failed", detail="NameError"),
    forger("reads the input for an answer", "def answer():\n    return int(input())", "failed", detail="EOFError"),
]

GLUTTONS = [
    glutton(
        "forks without end",
        "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass\n",
        "timeout",
        wall_seconds=2,
    ),
    glutton(
        "forks once too often",
        "import os\nfor _ in range(100):\n    if os.fork() == 0:\n        import time\n        time.sleep(60)\n",
        "failed",
    ),
    glutton(
        "starts threads without end",
        "import threading, time\nwhile True:\n"
        "    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n",
        "failed",
    ),
    glutton("takes memory at once", "x = [0] * 10**10", "memory"),
    glutton("takes memory step by step", "x = []\nwhile True:\n    x.append(bytearray(1 << 20))\n", "memory"),
    glutton("prints without end", "while True:\n    print('x' * 1000)\n", "output"),
    glutton("prints errors without end", "import os\nwhile True:\n    os.write(2, b'x' * 1000)\n", "output"),
    glutton("loops without end", "while True:\n    pass\n", "timeout"),
    glutton(
        "loops and ignores signals",
        "import signal\nfor n in (1, 2, 3, 15, 24):\n    signal.signal(n, signal.SIG_IGN)\nwhile True:\n    pass\n",
        "timeout",
    ),
    glutton("sleeps past the limit", "import time\ntime.sleep(600)\n", "timeout", wall_seconds=1),
    glutton("stops itself", "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\n", "timeout", wall_seconds=1),
    glutton(
        "recurses without end",
        "import sys\nsys.setrecursionlimit(10**9)\ndef f():\n    return f()\nf()\n",
        "memory",
        "crashed",
        "timeout",
    ),
    glutton("nests without end", "x = []\nfor _ in range(10**6):\n    x = [x]\nrepr(x)\n", "failed", "crashed"),
    glutton(
        "fills the disk",
        "with open('/tmp/full', 'wb') as f:\n    while True:\n        f.write(b'x' * 65536)\n",
        "failed",
        "crashed",
    ),
    glutton(
        "fills the disk with many files",
        "for n in range(10**6):\n    with open(f'/tmp/{n}', 'wb') as f:\n        f.write(b'x' * 1000000)\n",
        "failed",
    ),
    glutton(
        "unpacks a bomb",
        "import zlib\nx = zlib.compress(bytes(1 << 28), 1)\ny = zlib.decompress(x * 1) * 4\n",
        "memory",
    ),
    glutton("opens files without end", "x = [open('/dev/null') for _ in range(10**5)]\n", "failed"),
    glutton("computes a tower", "9 ** 9 ** 9\n", "timeout", "memory"),
    glutton("divides by address", "import ctypes\nctypes.string_at(0)\n", "crashed"),
    glutton("dumps core", "import os\nos.abort()\n", "crashed"),
]
