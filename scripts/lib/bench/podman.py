"""Podman with the same runsc, and with everything it keeps in a directory of the bench's own. It is taken as the distribution
has it, but for what its own storage, network and engine are to be; one container runs all the time, so that bridge and chains
are ready, as torpor's router is."""
import os
import re
import shlex
import shutil
import subprocess
import tempfile

TABLES = ("filter", "nat")
# What podman makes outside its directories, whatever it is told.
STRAYS = ("/dev/shm/libpod_lock", "/run/containers", "/var/lib/containers", "/run/libpod")
CONFIG = """
[containers]
log_driver = "k8s-file"
[network]
network_backend = "netavark"
firewall_driver = "iptables"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
"""


class Podman:
    SUBNET = "10.93.0.0/24"

    def __init__(self, runsc, image):
        self.program = shutil.which("podman")
        if self.program is None:
            raise SystemExit("podman is needed: scripts/setup --bench-tools")
        self.strays = [path for path in STRAYS if not os.path.exists(path)]
        self.groups = cgroups()
        self.rules = {table: saved(table) for table in TABLES}
        self.dir = tempfile.mkdtemp(prefix="torpor-bench-podman-", dir="/var/tmp")
        try:
            self.prepare(runsc, image)
        except BaseException:
            self.close()
            raise

    def prepare(self, runsc, image):
        runtime = f"{self.dir}/runsc"
        with open(runtime, "w") as script:
            script.write(f'#!/bin/sh\nexec {runsc} --root={self.dir}/engine --platform=systrap "$@"\n')
        os.chmod(runtime, 0o755)
        with open(f"{self.dir}/containers.conf", "w") as config:
            config.write(CONFIG)
        self.do("import", image, "bench")
        self.do("network", "create", "--disable-dns", "--subnet", self.SUBNET, "bench")
        self.run(29299, "anchor")

    def do(self, *args):
        command = [self.program, "--root", f"{self.dir}/root", "--runroot", f"{self.dir}/run", "--tmpdir", f"{self.dir}/tmp",
                   "--network-config-dir", f"{self.dir}/networks", "--storage-driver", "overlay", "--runtime", f"{self.dir}/runsc"]
        # Whatever it leaves running must not hold the bench's own output.
        with open(f"{self.dir}/log", "a") as log:
            env = {**os.environ, "CONTAINERS_CONF": f"{self.dir}/containers.conf"}
            done = subprocess.run([*command, *args], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)
        if done.returncode != 0:
            raise SystemExit(f"podman {' '.join(args)}:\n" + open(f"{self.dir}/log").read()[-2000:])

    def run(self, port, name):
        """The static server, its port 80 forwarded."""
        self.do("run", "-d", "--name", name, "--network", "bench", "-p", f"{port}:80", "-m", "2g", "--cpus", "2", "bench",
                "httpd", "-f", "-p", "80", "-h", "/www")

    def create(self, name):
        self.do("create", "--name", name, "--network", "none", "bench", "true")

    def remove(self, name):
        self.do("rm", "-f", "-t", "0", name)

    def close(self):
        """Takes away all that was not there before, also of what podman itself leaves."""
        try:
            if os.path.exists(f"{self.dir}/containers.conf"):
                self.do("rm", "-f", "-t", "0", "--all")
        finally:
            forget_rules(self.rules)
            for line in open("/proc/self/mounts").read().splitlines()[::-1]:
                if (path := line.split()[1]).startswith(self.dir):
                    subprocess.run(["umount", "-l", path], check=True)
            for group in sorted(cgroups() - self.groups, key=len, reverse=True):
                os.rmdir(group)
            for path in self.strays:
                if os.path.isdir(path):
                    shutil.rmtree(path)
                elif os.path.exists(path):
                    os.unlink(path)
            shutil.rmtree(self.dir)


def cgroups():
    """Podman's, in every hierarchy."""
    found = set()
    for hierarchy in ["", *os.listdir("/sys/fs/cgroup")]:
        top = os.path.normpath(f"/sys/fs/cgroup/{hierarchy}/libpod_parent")
        if os.path.isdir(top):
            found.update(os.path.realpath(path) for path, _, _ in os.walk(top))
    return found


def saved(table):
    return subprocess.run(["iptables-save", "-t", table], check=True, capture_output=True, text=True).stdout.splitlines()


def forget_rules(before):
    """Podman's chains stay when its last container has gone. Those of somebody else's containers are no business of ours."""
    for table in TABLES:
        new = [line for line in saved(table) if line not in before[table]]
        chains = [m[1] for line in new if (m := re.match(r":(NETAVARK\S*) ", line))]
        if any(re.fullmatch(r"NETAVARK-(DN-)?[0-9A-F]{13}", c) for c in chains):
            continue
        jump = re.compile(rf"-A (?!NETAVARK).* -j ({'|'.join(map(re.escape, chains))})$") if chains else None
        for line in new:
            if jump and jump.match(line):
                subprocess.run(["iptables", "-w", "-t", table, "-D", *shlex.split(line)[1:]], check=True)
        for flag in ("-F", "-X"):
            for chain in chains:
                subprocess.run(["iptables", "-w", "-t", table, flag, chain], check=True)
