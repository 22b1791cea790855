"""The baseline: runsc by hand, with a bundle and a network namespace that are ready."""
import json
import os
import shutil
import subprocess
import tempfile


def run(*command, **more):
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, **more)


class Raw:
    """One network namespace and one root file system; sandboxes one after the other."""

    ADDRESS = "10.95.0.2"

    def __init__(self, runsc, root, template):
        self.runsc, self.root = runsc, root
        self.dir = tempfile.mkdtemp(prefix="torpor-bench-raw-", dir="/var/tmp")
        self.netns = f"tb{os.getpid()}"
        self.link = f"tb{os.getpid() % 100000}"
        self.template = json.load(open(template))
        run("ip", "netns", "add", self.netns)
        run("ip", "link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.netns)
        run("ip", "addr", "add", "10.95.0.1/24", "dev", self.link)
        run("ip", "link", "set", self.link, "up")
        self.number = 0

    def address(self):
        """runsc takes the address off the link: put it back, as torpor does."""
        run("ip", "-n", self.netns, "addr", "replace", f"{self.ADDRESS}/24", "dev", "eth0")
        run("ip", "-n", self.netns, "link", "set", "lo", "up")
        run("ip", "-n", self.netns, "link", "set", "eth0", "up")

    def bundle(self, args, memory):
        """A bundle as torpor's, with the command itself as PID 1."""
        self.number += 1
        self.address()
        name = f"b{self.number}"
        path = f"{self.dir}/{name}"
        os.makedirs(f"{path}/upper")
        spec = json.loads(json.dumps(self.template))
        spec["process"]["args"] = args
        spec["root"]["path"] = self.root
        spec["hostname"] = name
        for namespace in spec["linux"]["namespaces"]:
            if namespace["type"] == "network":
                namespace["path"] = f"/run/netns/{self.netns}"
        spec["linux"]["cgroupsPath"] = f"/torpor-bench-{os.getpid()}/{name}"
        spec["linux"]["resources"] = {"memory": {"limit": memory, "swap": memory}, "cpu": {"quota": 20000, "period": 10000},
                                      "pids": {"limit": 1024}}
        json.dump(spec, open(f"{path}/config.json", "w"))
        return name

    def command(self, name, *args):
        path = f"{self.dir}/{name}"
        return [self.runsc, f"--root={self.dir}/r", f"--log={path}/log", "--platform=systrap", "--network=sandbox",
                f"--overlay2=root:dir={path}/upper", "--net-disconnect-ok=true", "--file-access-mounts=shared", *args]

    def do(self, name, *args):
        out = open(f"{self.dir}/{name}/out", "a")
        run(*self.command(name, *args), stdout=out, stderr=out)

    def create(self, name):
        self.do(name, "create", "--bundle", f"{self.dir}/{name}", name)

    def delete(self, name):
        self.do(name, "delete", "--force", name)
        shutil.rmtree(f"{self.dir}/{name}")

    def close(self):
        run("ip", "link", "del", self.link)
        run("ip", "netns", "del", self.netns)
        for name in os.listdir(f"{self.dir}/r") if os.path.isdir(f"{self.dir}/r") else []:
            subprocess.run(["umount", "-l", f"{self.dir}/r/{name}"], stderr=subprocess.DEVNULL)
        for hierarchy in os.listdir("/sys/fs/cgroup"):
            top = f"/sys/fs/cgroup/{hierarchy}/torpor-bench-{os.getpid()}"
            if os.path.isdir(top):
                for name in os.listdir(top):
                    if os.path.isdir(f"{top}/{name}"):
                        os.rmdir(f"{top}/{name}")
                os.rmdir(top)
        shutil.rmtree(self.dir)
