"""scripts/bench: see --help."""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(__file__))
from harness import note, show
from many import MANY
from raw import Raw
from rows import ROWS, Bench
from torpord import Torpord


def image(directory, repository):
    """A root file system of busybox and the server of the tests."""
    root = f"{directory}/root"
    for d in ("bin", "etc", "tmp", "www", "dev", "proc", "sys", "run/secrets"):
        os.makedirs(f"{root}/{d}")
    shutil.copy("/bin/busybox", f"{root}/bin/busybox")
    for applet in subprocess.run(["/bin/busybox", "--list"], check=True, capture_output=True, text=True).stdout.split():
        if applet != "busybox":
            os.symlink("busybox", f"{root}/bin/{applet}")
    with open(f"{root}/www/index.html", "w") as page:
        page.write("hello\n")
    subprocess.run(["rustc", "--edition=2024", "-O", "-C", "target-feature=+crt-static", "-o", f"{root}/bin/counter",
                    f"{repository}/tests/support/counter.rs"], check=True)
    subprocess.run(["tar", "-C", root, "-cf", f"{directory}/image.tar", "."], check=True)
    return root, f"{directory}/image.tar"


def main():
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Ratios of torpor against baselines taken in the same run.")
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--times", type=int, help="pairs of each row")
    parser.add_argument("rows", nargs="*", metavar="ROW", help="of " + " ".join(ROWS) + "; by name only: " + " ".join(MANY))
    arguments = parser.parse_args()
    every = ROWS | MANY
    unknown = [r for r in arguments.rows if r not in every]
    if unknown:
        parser.error(f"no row {' '.join(unknown)}")
    binaries, repository, runsc = (os.environ[n] for n in ("TORPOR_LIBEXEC", "TORPOR_REPOSITORY", "TORPOR_BENCH_RUNSC"))
    work = tempfile.mkdtemp(prefix="torpor-bench-image-", dir="/var/tmp")
    root, tar = image(work, repository)
    daemon = Torpord(binaries, runsc)
    raw = Raw(runsc, root, f"{repository}/bundles/template-1.json")
    try:
        daemon.call("POST", "/v1/images?name=bench", open(tar, "rb"), "application/octet-stream")
        bench = Bench(daemon, raw, binaries, runsc)
        bench.image = tar
        bench.show = lambda row: show(row, arguments.json)
        for name in arguments.rows or ROWS:
            work_of, times = every[name]
            note(f"{name} ...")
            show(work_of(bench, arguments.times or times), arguments.json)
    finally:
        daemon.close()
        raw.close()
        shutil.rmtree(work)


main()
