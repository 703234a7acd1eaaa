"""Model-written code, run where it can do no harm and cannot grade itself.

    verdict = sandbox.run(Program(code="def add(a, b): return a + b", tests="assert add(1, 2) == 3"))
    verdict.outcome      # "passed"

**Isolation** (`bubblewrap`, `seccomp`). One sandbox a program, without root and without a container service: user,
mount, process, network, System V, host name and control group namespaces of its own, a root that cannot be written
and holds the C library and the interpreter only, no /proc, an environment of four fixed variables, no sockets, a
filter of system calls, and limits on CPU and wall time, memory, processes, disk, output and open files. When the
first process of a sandbox ends, the kernel ends all others in it; a verdict is given after that. There is no server
that forks programs inside one sandbox: it would save the start of an interpreter, and programs would see each other.

**Who decides** (`inside`). Code and tests never share a process. The judge splits off a process for the code, with
nothing but two pipes and its standard streams, and only then reads the tests; it calls the code's functions over
those pipes, gets plain data back (`inside.wire`), and runs every assertion itself. The verdict leaves by a descriptor
that only the judge holds. So these cannot make a wrong program pass: ending early by any way (no answer came), replaced
builtins, patched modules, `atexit`, frames, tracing, `gc`, memory (another process), printed or written
verdicts, answers sent unasked (they are answers), killing the judge (then there is no verdict), values that claim
to be equal to everything (`1 == 1` is computed on plain data; a stranger is never equal to data).

What remains is what lies in the answers themselves:

- code that recognises the published inputs and returns the published results;
- arguments that are changed in place, where a test compares with the same object: changes are carried back, since
  honest code may be asked for them;
- tests that compare two objects of the code's own classes: its `__eq__` decides;
- tests that use helpers out of the code and not out of `Program.given`;
- code without tests, whose pass means no more than that it said it had ended.

And what the tests can ask for: plain data as arguments (no functions), no arithmetic or order on objects of the
code's own classes, exceptions as the nearest built-in class.

**Timeouts.** CPU time decides; wall time is there for programs that wait. What runs out of either is run again, alone,
after all others. Strings hash alike in every run.

A system without namespaces is told so (`SandboxUnavailable`) after a probe that tries to get out. `unsafe=True` runs
the same judge in a plain process with limits on time, memory, files and output; the verdict says `isolated=False`.
Memory is bounded per process and by the number of processes, not by a control group.
"""

from cuvee.sandbox.runner import SandboxUnavailable, available, run, run_many
from cuvee.sandbox.verdicts import Limits, Outcome, Program, Verdict

__all__ = ["Limits", "Outcome", "Program", "SandboxUnavailable", "Verdict", "available", "run", "run_many"]
