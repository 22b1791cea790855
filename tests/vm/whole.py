"""Whether a state directory is whole after a power loss, and what was acknowledged is in it. Run in the VM.

  whole.py check STATE ACTS BEFORE   exits with 1 and says why, or prints what it saw
  whole.py sums STORE                prints the checksums of all packs, as `replay` wants them
  whole.py replay LOG DISK SPARE SUMS SEED STARTS COMMAND...
                                     checks every moment at which a disk was told to keep what it had, by a log that
                                     dm-log-writes took; DISK holds what was there before, SPARE is written to

ACTS: a line `begin WORD NAME` before each call of the API, `acked WORD NAME` after it. Of those of the first BEFORE lines the
acknowledged must be there; of all others it is enough that they are there whole or not at all.
"""

import hashlib
import hmac
import io
import json
import os
import random
import sqlite3
import struct
import subprocess
import sys
import tarfile
import zlib


class Broken(Exception):
    pass


def need(what, why):
    if not what:
        raise Broken(why)


def read(path):
    with open(path, "rb") as f:
        return f.read()


class Acts:
    """What must be, may be and must not be, by what was acknowledged."""

    def __init__(self, acked, begun):
        self.acked, self.begun = acked, begun

    def last(self, names):
        """The last acknowledged word of each name among acts that begin with such words."""
        known = {}
        for word, name in self.acked:
            if word in names:
                known[name] = word
        return known

    def check(self, pods, images, snapshots):
        for name, word in self.last(("create", "rm")).items():
            if word == "create":
                need(name in pods or ("rm", name) in self.begun, f"pod {name} was acknowledged and is not there")
            else:
                need(name not in pods, f"pod {name} was removed, and is there again")
        for name, word in self.last(("import", "rmi")).items():
            if word == "import":
                need(name in images or ("rmi", name) in self.begun, f"image {name} was acknowledged and is not there")
            else:
                need(name not in images, f"image {name} was removed, and is there again")
        for word, name in self.acked:
            if word == "snapshot":
                need(name in snapshots, f"snapshot {name} was acknowledged and is not there")
        # The same pod sleeps and wakes, so each act has a number.
        numbered = [(word, int(name)) for word, name in self.acked if word in ("sleep", "wake")]
        if numbered and numbered[-1][0] == "sleep" and ("wake", str(numbered[-1][1])) not in self.begun:
            need("nap" in pods, "the sleeper is gone")
            need(pods["nap"]["state"] == "sleeping", f"the sleeper is {pods['nap']['state']}")


def database(state):
    connection = sqlite3.connect(f"{state}/torpor.db")
    try:
        said = connection.execute("PRAGMA integrity_check").fetchone()[0]
        need(said == "ok", f"the database: {said}")
        pods = {name: json.loads(record) for name, record in connection.execute("SELECT name, record FROM pods")}
        # A name without a tag is kept with the usual one.
        rows = connection.execute("SELECT name, record FROM images")
        images = {name.removesuffix(":latest"): json.loads(record) for name, record in rows}
    except sqlite3.Error as e:
        raise Broken(f"the database: {e}")
    finally:
        connection.close()
    return pods, images


def layer(state, hexes, known):
    """A layer that says it is whole: its bytes have its digest, and its directory is what they say."""
    info = json.loads(read(f"{state}/layers/{hexes}.json"))
    need(info["digest"] == f"sha256:{hexes}", f"layer {hexes} says that it is {info['digest']}")
    blob, root = f"{state}/blobs/{hexes}.tar.zst", f"{state}/layers/{hexes}"
    need(os.path.isfile(blob) and os.path.isdir(root), f"layer {hexes} is not whole")
    need(os.path.getsize(blob) == info["compressed"], f"the bytes of layer {hexes} are cut off")
    if hexes in known:
        return
    tar = subprocess.run(["zstd", "-dcq", blob], stdout=subprocess.PIPE, check=False).stdout
    need(hashlib.sha256(tar).hexdigest() == hexes, f"the bytes of layer {hexes} have another digest")
    with tarfile.open(fileobj=io.BytesIO(tar)) as members:
        for member in members:
            at = os.path.join(root, member.name)
            need(os.path.lexists(at), f"layer {hexes}: {member.name} is not there")
            if member.isreg():
                need(read(at) == members.extractfile(member).read(), f"layer {hexes}: {member.name} has other bytes")


def snapshots(store, packs):
    """Ids of the snapshots that can be seen; each is whole. `packs`: checksums of packs, if they are known."""
    found, top = set(), f"{store}/v1/snapshots"
    if not os.path.exists(f"{store}/torpor.json"):
        need(not os.path.isdir(top) or not os.listdir(top), "snapshots without a store")
        return found
    key = read(f"{store}/v1/keys/{json.loads(read(f'{store}/torpor.json'))['digestKeyId']}")
    for name in os.listdir(top) if os.path.isdir(top) else []:
        path = f"{top}/{name}/manifest"
        if not os.path.exists(path):
            continue
        sealed = json.loads(read(path))
        mac = hmac.new(key, sealed["body"].encode(), hashlib.sha256).hexdigest()
        need(mac == sealed["mac"], f"the manifest of {name} is damaged")
        manifest = json.loads(sealed["body"])
        for image in manifest["files"]:
            for extent in image["extents"]:
                if not extent["pack"]:
                    continue
                pack = f"{store}/{extent['pack']}"
                need(os.path.exists(pack), f"snapshot {name}: {extent['pack']} is not there")
                size = os.path.getsize(pack)
                need(size >= extent["frame"] + extent["size"], f"snapshot {name}: {extent['pack']} is cut off")
        for pack in {e["pack"] for f in manifest["files"] for e in f["extents"] if e["pack"]}:
            if pack in packs:
                need(zlib.crc32(read(f"{store}/{pack}")) == packs[pack], f"snapshot {name}: {pack} has other bytes")
        for one in manifest["layers"]:
            at = f"{store}/v1/layers/{one['digest'][7:]}.tar.zst"
            need(os.path.exists(at) and os.path.getsize(at) == one["compressed"], f"snapshot {name}: a layer is not whole")
        found.add(name)
    return found


def check(state, acts, known=frozenset(), packs=None):
    """Raises Broken; gives what was seen."""
    pods, images = database(state)
    layers = {n[:-5] for n in os.listdir(f"{state}/layers") if n.endswith(".json")}
    for one in sorted(layers):
        layer(state, one, known)
    for name, image in images.items():
        for one in image["layers"]:
            need(one["digest"][7:] in layers, f"image {name}: layer {one['digest']} is not there")
    for name, pod in pods.items():
        for digest in pod["layers"] + pod.get("privateLayers", []) + [pod["init"]]:
            need(digest[7:] in layers, f"pod {name}: layer {digest} is not there")
    seen = snapshots(f"{state}/store", packs or {})
    for name, pod in pods.items():
        if pod["state"] == "sleeping":
            need(pod["snapshot"] in seen, f"pod {name} sleeps in a snapshot that is not there")
    acts.check(pods, images, seen)
    return {"pods": len(pods), "images": len(images), "layers": len(layers), "snapshots": len(seen)}


def parse(lines):
    acted = [line.split() for line in lines]
    return ([(w, n) for kind, w, n in acted if kind == "acked"], {(w, n) for kind, w, n in acted if kind == "begin"})


FLUSH, FUA, DISCARD, MARK = 1, 2, 4, 8
MAGIC = 0x6A736677736872


def entries(log):
    """The entries of a log of dm-log-writes: drivers/md/dm-log-writes.c of Linux."""
    magic, version, count, sector = struct.unpack("<QQQI", log.read(28))
    need(magic == MAGIC and version == 1, "this is no log of dm-log-writes")
    log.seek(sector)
    for _ in range(count):
        head = log.read(sector)
        where, sectors, flags, length = struct.unpack("<QQQQ", head[:32])
        data = None
        if flags & MARK:
            data = head[32 : 32 + length]
        elif not flags & DISCARD and sectors:
            data = log.read(sectors * sector)
        yield where * sector, flags, data


def run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    need(done.returncode == 0, f"{' '.join(command)}: {done.stdout.decode(errors='replace')[-600:]}")


def sums(store):
    """Checksums of all packs. They are never changed."""
    found = {}
    for top, _, names in os.walk(f"{store}/v1/packs"):
        for name in names:
            path = os.path.join(top, name)
            found[os.path.relpath(path, store)] = zlib.crc32(read(path))
    return found


def replay(log_path, disk, spare, packs, seed, starts, command):
    """Looks at every moment; at `starts` of them, chosen by `seed`, `command` is run as well, with the disk at /f."""
    size = subprocess.run(["blockdev", "--getsz", disk], stdout=subprocess.PIPE, check=True).stdout.decode().strip()
    with open(log_path, "rb") as log:
        count = sum(1 for _, flags, _ in entries(log) if flags & (FLUSH | FUA) and not flags & MARK)
    chosen = set(random.Random(seed).sample(range(1, count + 1), min(starts, count)))
    moment, looks, new, acked, begun, known, saw = 0, 0, True, [], set(), frozenset(), {}
    target = os.open(disk, os.O_RDWR)
    with open(log_path, "rb") as log:
        for where, flags, data in entries(log):
            if flags & MARK:
                words = data.decode().rstrip("\0").split(":")
                if words[0] == "acked":
                    new = True
                    acked.append((words[1], words[2]))
                elif words[0] == "begin":
                    begun.add((words[1], words[2]))
                continue
            if data:
                new = True
                os.pwrite(target, data, where)
            if not flags & (FLUSH | FUA):
                continue
            moment += 1
            if not new and moment not in chosen:
                continue  # as at the moment before
            looks, new = looks + 1, False
            os.fsync(target)
            run("dmsetup", "create", "spare", "--table", f"0 {size} snapshot {disk} {spare} N 8")
            try:
                run("mount", "/dev/mapper/spare", "/f")
                try:
                    saw = check("/f/state", Acts(acked, begun), known, packs)
                    if not known:  # what was there before the log begins is looked at closely once
                        known = {n[:-5] for n in os.listdir("/f/state/layers") if n.endswith(".json")}
                    if moment in chosen:
                        run(*command)
                finally:
                    run("sh", "-c", "for n in $(seq 100); do umount /f && exit; sleep 0.1; done; exit 1")
            except Broken as e:
                raise Broken(f"moment {moment} of {count}, after {len(acked)} acknowledged: {e}")
            finally:
                run("dmsetup", "remove", "--retry", "spare")
    os.close(target)
    need(moment and acked, "the log holds nothing")
    print(f"# {moment} moments, {looks} of them different, {len(acked)} calls acknowledged, {len(chosen)} starts of torpord; in the end {saw}")


def main(words):
    if words[0] == "check":
        state, path, before = words[1:]
        lines = read(path).decode().splitlines()
        acked, _ = parse(lines[: int(before)])
        _, begun = parse(lines)
        print(f"{len(acked)} acknowledged, {check(state, Acts(acked, begun))}")
    elif words[0] == "sums":
        print(json.dumps(sums(words[1])))
    elif words[0] == "replay":
        log, disk, spare, packs, seed, starts = words[1:7]
        replay(log, disk, spare, json.loads(read(packs)), int(seed), int(starts), words[7:])


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Broken as broken:
        print(f"failed: {broken}", file=sys.stderr)
        sys.exit(1)
