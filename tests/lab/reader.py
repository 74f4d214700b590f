"""Reads a file in one way, pauses in the middle, and writes the hash of what it read.

reader.py buffered|direct|mapped|listing FILE OUT GO: creates OUT.begun when it pauses, and reads the
rest once the file GO exists.
"""
import hashlib
import mmap
import os
import sys
import time

PIECE = 1 << 20


def pieces(way, path):
    if way == "listing":
        with os.scandir(path) as entries:
            yield from (os.fsencode(entry.name) for entry in entries)
        return
    size = os.stat(path).st_size
    descriptor = os.open(path, os.O_RDONLY | (os.O_DIRECT if way == "direct" else 0))
    if way == "mapped":
        with mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) as mapping:
            for at in range(0, size, PIECE):
                yield mapping[at : at + PIECE]
        return
    aligned = mmap.mmap(-1, PIECE)
    at = 0
    while count := os.preadv(descriptor, [aligned], at):
        yield aligned[:count]
        at += count
    assert at == size, f"{path}: {at} bytes of {size}"


def main():
    way, path, out, go = sys.argv[1:]
    # an earlier read of the listing would make the kernel cache all of it
    stop = 1000 if way == "listing" else os.stat(path).st_size // PIECE // 3
    read = []
    for number, piece in enumerate(pieces(way, path)):
        if number == stop:
            open(out + ".begun", "w").close()
            while not os.path.exists(go):
                time.sleep(0.01)
        read.append(piece)
    if way == "listing":
        read = [b"%s\n" % name for name in sorted(read)]
    with open(out, "w") as result:
        result.write(hashlib.sha256(b"".join(read)).hexdigest() + "  -\n")


main()
