"""Programs of the worst kind, as texts of Python: each does its harm in the folder where it is started.

They are bounded in themselves, so that a limit which does not hold harms nobody's machine.
"""

GENTLE = "print('done')"
ALWAYS_FAILS = "raise SystemExit('the calibration is missing')"
CRASHES = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
FORK_BOMB = """
import os, time
for _ in range(3):  # every process makes 9 others, and these as well: 999 at the most, each in a session of its own
    for _ in range(9):
        time.sleep(0.002)
        if os.fork() == 0:
            os.setsid()
            break
    else:
        break
time.sleep(60)
"""
FILLS_MEMORY = """
import time
held = []
for _ in range(60):  # 1.2 GB at the most
    held.append(bytearray(b"x") * 20_000_000)
    time.sleep(0.02)
time.sleep(60)
"""
FILLS_MEMORY_IN_MANY = """
import os, time
for _ in range(30):
    if os.fork() == 0:
        held = bytearray(b"x") * 30_000_000
        time.sleep(60)
    time.sleep(0.05)
time.sleep(60)
"""
FILLS_DISK = """
import time
for n in range(200):  # 1 GB at the most
    with open(f"part{n}", "wb") as file:
        file.write(b"x" * 5_000_000)
    time.sleep(0.01)
time.sleep(60)
"""
ONE_LARGE_FILE = """
with open("large", "wb") as file:
    for _ in range(300):
        file.write(b"x" * 1_000_000)
"""
FILLS_INODES = """
import os, time
for n in range(50_000):
    open(f"f{n}", "w").close()
time.sleep(60)
"""
NEVER_ENDS = "import time; time.sleep(600)"
IGNORES_TERM = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(600)
"""
HIDES_ITS_THREADS = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
ctypes.CDLL(None).syscall(60, 0)  # exit of this thread alone: the process is called a zombie, and lives
"""
LEAVES_A_DAEMON = """
import os, signal, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        open("daemon.pid", "w").write(str(os.getpid()))
        os.closerange(0, 64)
        time.sleep(600)
    os._exit(0)
while not os.path.exists("daemon.pid"):
    time.sleep(0.01)
"""
PRINTS = """
import sys
line = b"x" * 99 + b"\\n"
sys.stderr.buffer.write(b"the first line\\n")
for _ in range(%d // 100):
    sys.stderr.buffer.write(line)
sys.stderr.buffer.write(b"the last line\\n")
raise SystemExit(3)
"""
MAKES_NOTHING = "pass"
ODD_NAMES = """
import os
os.makedirs(b"out-\\xff\\xfe")
open(b"out-\\xff\\xfe/\\x80\\x81.joined", "w").close()
"""
DEEP = """
import os
for _ in range(1500):
    os.mkdir("d")
    os.chdir("d")
raise SystemExit("it went very deep")
"""
KILLS_ALL_WATCHDOGS = """
import os, signal, time
found = []
parent = os.getpid()
while parent > 1:
    if b"watchdog.py" in open(f"/proc/{parent}/cmdline", "rb").read():
        found.insert(0, parent)
    parent = int(open(f"/proc/{parent}/stat").read().rpartition(")")[2].split()[1])
for parent in found:
    os.kill(parent, signal.SIGKILL)
time.sleep(600)
"""
KILLS_ITS_WATCHDOG = """
import os, signal, time
parent = os.getpid()
while True:  # upwards, to the one that is called like it
    parent = int(open(f"/proc/{parent}/stat").read().rpartition(")")[2].split()[1])
    if b"watchdog.py" in open(f"/proc/{parent}/cmdline", "rb").read():
        break
os.kill(parent, signal.SIGKILL)
time.sleep(600)
"""
MAKES_A_FILE = "open('made.txt', 'w').write('light')"
MAKES_A_PIPE = "import os; os.mkfifo('made.txt')"
MAKES_A_FOREIGN_LINK = "import os; os.symlink('/etc/hostname', 'made.txt')"
MAKES_AN_ODD_NAME = """
import os
os.mkdir("made.txt")
open(b"made.txt/\\xff\\x80", "w").close()
"""
