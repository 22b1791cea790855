"""Many pods at once, what a pod and the daemon cost while nothing happens, and what gVisor itself costs. Asked for by name: D2 and
D3 take minutes and most of the memory."""
import glob
import json
import os
import re
import shutil
import subprocess
import time

from harness import Row, interleave, milliseconds, note
from podman import Podman

MIB = 1 << 20
# What runs in each of many: next to nothing.
IDLE = ["sleep", "100000"]


def pss(pids):
    """KiB of memory that these processes have, what they share with others counted by parts."""
    total = 0
    for pid in pids:
        try:
            total += sum(int(line.split()[1]) for line in open(f"/proc/{pid}/smaps_rollup") if line.startswith("Pss:"))
        except OSError:
            pass
    return total


def processes(pattern):
    """Pids of those whose command line has that."""
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            line = open(path, "rb").read().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if re.search(pattern, line):
            found.append(int(path.split("/")[2]))
    return found


def median(values):
    return sorted(values)[len(values) // 2]


class Growth:
    """So many sandboxes are started one after the other: what one costs at the end against what it costs at the beginning."""

    def __init__(self, count, edge):
        self.count, self.edge, self.took = count, edge, []

    def measure(self, start):
        for n in range(self.count):
            begun = time.monotonic()
            start(n)
            self.took.append(milliseconds(begun))
            if n % 50 == 49:
                note(f"  {n + 1} run, the last {self.edge} took {median(self.took[-self.edge:]):.0f} ms each")

    def ratio(self):
        return median(self.took[-self.edge:]) / median(self.took[: self.edge])


def d2(bench, _times, count=200, edge=15):
    """Start cost of the last of 200 pods against the first, beside bare runsc's own growth at the same counts."""
    count = int(os.environ.get("BENCH_PODS", count))
    row = Row("D2", 1.10, f"growth of the start cost from pod 1 to pod {count}, against bare runsc's (ratios, not ms)")
    raw, names = Growth(count, edge), []

    def start_raw(_):
        name = bench.raw.bundle(IDLE, 64 * MIB)
        names.append(name)
        bench.raw.create(name)
        bench.raw.do(name, "start", name)

    try:
        raw.measure(start_raw)
    finally:
        for name in names:
            bench.raw.delete(name)
    ours, pods = Growth(count, edge), []
    try:
        ours.measure(lambda _: pods.append(bench.daemon.pod(name=bench.name(), image="bench", command=IDLE, memory=64 * MIB, cpus=2)["id"]))
        note(f"D2: {count} pods: torpord has {bench.daemon.memory() // 1024} MiB")
    finally:
        for pod in pods:
            bench.daemon.remove(pod)
    row.ours.append(ours.ratio())
    row.theirs.append(raw.ratio())
    note(f"D2: torpor {median(ours.took[:edge]):.0f} -> {median(ours.took[-edge:]):.0f} ms, "
         f"runsc {median(raw.took[:edge]):.0f} -> {median(raw.took[-edge:]):.0f} ms")
    return row


def d3(bench, _times, count=20):
    """Memory of a pod beside what runsc itself takes: its shim and its part of the daemon, against podman's conmon."""
    count = int(os.environ.get("BENCH_PODS", count))
    row = Row("D3", 0.5, f"memory of a pod beyond runsc's, against podman's conmon (KiB, PSS, {count} of each)")
    daemon = lambda: pss([bench.daemon.process.pid])
    warm = bench.daemon.pod(name=bench.name(), image="bench", command=IDLE, memory=64 * MIB, cpus=2)["id"]
    before = daemon()
    pods = [bench.daemon.pod(name=bench.name(), image="bench", command=IDLE, memory=64 * MIB, cpus=2)["id"] for _ in range(count)]
    try:
        shims = processes(rf"torpor-shim.*{bench.daemon.tag}")
        each = pss(shims) / max(1, len(shims))
        grown = max(0, daemon() - before) / count
        note(f"D3: a shim has {each:.0f} KiB, the daemon grew by {grown:.0f} KiB a pod")
        row.ours.append(each + grown)
    finally:
        for pod in [*pods, warm]:
            bench.daemon.remove(pod)
    podman = Podman(bench.runsc, bench.image)
    try:
        names = [bench.name() for _ in range(min(count, 20))]
        for n, name in enumerate(names):
            podman.do("run", "-d", "--name", name, "--network", "none", "bench", *IDLE)
        conmons = processes(rf"conmon .*{re.escape(podman.dir)}")
        row.theirs.append(pss(conmons) / max(1, len(conmons)))
        for name in names:
            podman.remove(name)
    finally:
        podman.close()
    return row


def idle(bench, _times, seconds=30):
    """The daemon with one pod that does nothing: its memory against 15 MiB, and how often it wakes up."""
    pod = bench.daemon.pod(name=bench.name(), image="bench", command=IDLE, memory=64 * MIB, cpus=2)["id"]
    try:
        time.sleep(5)  # what a start leaves to do is done
        switches = lambda: sum(int(line.split()[1]) for task in glob.glob(f"/proc/{bench.daemon.process.pid}/task/*/status")
                               for line in open(task) if line.startswith("voluntary_ctxt_switches"))
        before = switches()
        time.sleep(seconds)
        woke = (switches() - before) / seconds
        shims = processes(rf"torpor-shim.*{bench.daemon.tag}")
        row = Row("I1", 1, f"memory of an idle daemon, against 15 MiB (KiB); it woke {woke:.2f} times a second (goal 1), "
                           f"a shim has {pss(shims) / max(1, len(shims)):.0f} KiB (goal 1536)")
        row.ours.append(bench.daemon.memory())
        row.theirs.append(15 * 1024)
        return row
    finally:
        bench.daemon.remove(pod)


# What a program in a sandbox does: one of these each, its own clock tells in milliseconds.
WORK = {
    "syscalls": "i=0; while [ $i -lt 3000 ]; do : </dev/null; i=$((i+1)); done",
    "files": "i=0; while [ $i -lt 300 ]; do echo x >/tmp/f$i; cat /tmp/f$i >/dev/null; rm /tmp/f$i; i=$((i+1)); done",
    "processor": "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done",
    "network": "httpd -p 127.0.0.1:81 -h /www; i=0; while [ $i -lt 100 ]; do wget -q -O /dev/null http://127.0.0.1:81/; i=$((i+1)); done",
}


def g1(bench, times):
    """What gVisor itself costs: the same bundle and the same work by runc and by runsc. Printed, not judged."""
    runc = shutil.which("runc") or shutil.which("crun")
    if runc is None:
        raise SystemExit("G1 needs runc: apt-get install runc")

    def took(name, script, engine):
        timed = f"read a b </proc/uptime; {script}; read c d </proc/uptime; echo \"$a $c\""
        bundle = bench.raw.bundle(["sh", "-c", timed], 512 * MIB)
        path = f"{bench.raw.dir}/{bundle}"
        if engine == "runc":
            spec = json.load(open(f"{path}/config.json"))
            spec["linux"].pop("cgroupsPath", None)
            spec["root"]["readonly"] = False
            spec["linux"]["resources"] = {}
            upper, work, merged = (f"{path}/{d}" for d in ("upper", "work", "merged"))
            os.makedirs(work)
            os.makedirs(merged)
            subprocess.run(["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={bench.raw.root},upperdir={upper},workdir={work}", merged], check=True)
            spec["root"]["path"] = merged
            json.dump(spec, open(f"{path}/config.json", "w"))
            command = [runc, f"--root={bench.raw.dir}/runc", "run", "--bundle", path, bundle]
        else:
            command = bench.raw.command(bundle, "run", "--bundle", path, bundle)
        try:
            out = subprocess.run(command, check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
        finally:
            if engine == "runc":
                subprocess.run(["umount", f"{path}/merged"], check=False)
                shutil.rmtree(path)
            else:
                bench.raw.delete(bundle)
        begun, ended = (float(v) for v in out.split()[-2:])
        return max(10.0, (ended - begun) * 1000)

    last = None
    for name, script in WORK.items():
        row = interleave(Row(f"G1 {name}", float("inf"), f"{name} in a sandbox of gVisor, against {os.path.basename(runc)}, same bundle"),
                         lambda: took(name, script, "runsc"), lambda: took(name, script, "runc"), times)
        if last is not None:
            bench.show(last)
        last = row
    return last


MANY = {"D2": (d2, 1), "D3": (d3, 1), "I1": (idle, 1), "G1": (g1, 3)}
