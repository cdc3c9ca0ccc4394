"""A file system in memory that a power cut takes back to what was synced. Mount it with `forgetful.py FOLDER`.

It keeps two trees: the living one, and what a disk surely has: a file's bytes as of its last fsync, a folder's names as of
that folder's last fsync. No real file system is so cruel to all of it at once; each is to some of it.

It is spoken to by extended attributes of its root. Set `user.cut` to
  after N   after N more calls that change or sync anything every call fails, as on a disk that is gone
  worst     cut now: only what was synced is there
  mixed S   cut now: each name and each file that was not synced is kept or lost by chance (seed S); a file whose name is kept
            without its bytes is empty
A cut ends the failing, too. `user.count` reads as the number of such calls so far.
"""

import errno
import os
import random
import stat
import sys
import threading
import time

import mfusepy as fuse


class Node:
    def __init__(self, mode):
        self.mode, self.uid, self.gid = mode, os.getuid(), os.getgid()
        self.times = (time.time_ns(), time.time_ns())
        self.data, self.entries = bytearray(), {}
        # What a cut leaves of it.
        self.synced_data, self.synced_entries = b"", {}

    @property
    def folder(self):
        return stat.S_ISDIR(self.mode)


def split(path):
    folder, _, name = path.rpartition("/")
    return folder or "/", name


class Forgetful(fuse.Operations):
    use_ns = True

    def __init__(self):
        self.root = Node(stat.S_IFDIR | 0o755)
        self.mutex = threading.RLock()
        self.handles, self.next_handle = {}, 1
        self.count, self.left = 0, None

    def node(self, path):
        found = self.root
        for name in path.split("/"):
            if name:
                if not found.folder:
                    raise fuse.FuseOSError(errno.ENOTDIR)
                if name not in found.entries:
                    raise fuse.FuseOSError(errno.ENOENT)
                found = found.entries[name]
        return found

    def changes(self):
        """Every call that changes or syncs passes here; once the disk is gone none does."""
        if self.left is not None:
            if self.left <= 0:
                raise fuse.FuseOSError(errno.EIO)
            self.left -= 1
        self.count += 1

    def alive(self):
        if self.left is not None and self.left <= 0:
            raise fuse.FuseOSError(errno.EIO)

    # The cut.

    def cut(self, keep):
        """Everything becomes what a disk has; `keep` says of each thing that was not synced whether it made it."""
        with self.mutex:
            fixed = {}

            def settle(node):
                # A file may have two names, and is one file still.
                if id(node) in fixed:
                    return
                fixed[id(node)] = node
                if not node.folder:
                    if not (node.synced_data != node.data and keep()):
                        node.data = bytearray(node.synced_data)
                    node.synced_data = bytes(node.data)
                    return
                entries = {}
                for name in node.entries.keys() | node.synced_entries.keys():
                    live, disk = node.entries.get(name), node.synced_entries.get(name)
                    kept = live if live is not disk and keep() else disk
                    if kept is not None:
                        entries[name] = kept
                node.entries, node.synced_entries = entries, dict(entries)
                for child in entries.values():
                    settle(child)

            settle(self.root)
            self.handles, self.left = {}, None

    def setxattr(self, path, name, value, options, position=0):
        if (path, name) != ("/", "user.cut"):
            raise fuse.FuseOSError(errno.ENOTSUP)
        how, _, number = value.decode().partition(" ")
        if how == "after":
            self.left = int(number)
        elif how == "worst":
            self.cut(lambda: False)
        elif how == "mixed":
            dice = random.Random(int(number))
            self.cut(lambda: dice.random() < 0.5)
        else:
            raise fuse.FuseOSError(errno.EINVAL)

    def getxattr(self, path, name, position=0):
        if (path, name) != ("/", "user.count"):
            raise fuse.FuseOSError(errno.ENODATA)
        return str(self.count).encode()

    # What the kernel asks.

    def getattr(self, path, fh=None):
        with self.mutex:
            node = self.handles.get(fh) or self.node(path)
            return {
                "st_mode": node.mode, "st_uid": node.uid, "st_gid": node.gid, "st_size": len(node.data), "st_nlink": 1,
                "st_atime": node.times[0], "st_mtime": node.times[1], "st_ctime": node.times[1], "st_ino": id(node) % 2**48,
            }

    def readdir(self, path, fh):
        with self.mutex:
            self.alive()
            return [".", "..", *self.node(path).entries]

    def mkdir(self, path, mode):
        with self.mutex:
            folder, name = split(path)
            self.changes()
            if name in self.node(folder).entries:
                raise fuse.FuseOSError(errno.EEXIST)
            self.node(folder).entries[name] = Node(stat.S_IFDIR | mode)

    def rmdir(self, path):
        with self.mutex:
            self.changes()
            folder, name = split(path)
            if self.node(path).entries:
                raise fuse.FuseOSError(errno.ENOTEMPTY)
            del self.node(folder).entries[name]

    def handle(self, node):
        self.next_handle += 1
        self.handles[self.next_handle] = node
        return self.next_handle

    def create(self, path, mode, fi=None):
        with self.mutex:
            self.changes()
            folder, name = split(path)
            node = self.node(folder).entries[name] = Node(stat.S_IFREG | mode)
            return self.handle(node)

    def open(self, path, flags):
        with self.mutex:
            self.alive()
            if flags & os.O_TRUNC:
                self.truncate(path, 0)
            return self.handle(self.node(path))

    def opened(self, path, fh):
        # A handle from before the cut is as dead as the process that had it.
        if fh not in self.handles:
            raise fuse.FuseOSError(errno.EIO)
        return self.handles[fh]

    def read(self, path, size, offset, fh):
        with self.mutex:
            self.alive()
            return bytes(self.opened(path, fh).data[offset : offset + size])

    def write(self, path, data, offset, fh):
        with self.mutex:
            self.changes()
            node = self.opened(path, fh)
            if len(node.data) < offset:
                node.data.extend(b"\0" * (offset - len(node.data)))
            node.data[offset : offset + len(data)] = data
            node.times = (node.times[0], time.time_ns())
            return len(data)

    def truncate(self, path, length, fh=None):
        with self.mutex:
            self.changes()
            node = self.handles.get(fh) or self.node(path)
            del node.data[length:]
            node.data.extend(b"\0" * (length - len(node.data)))

    def fsync(self, path, datasync, fh):
        with self.mutex:
            self.changes()
            node = self.opened(path, fh)
            node.synced_data = bytes(node.data)

    def fsyncdir(self, path, datasync, fh):
        with self.mutex:
            self.changes()
            node = self.node(path)
            node.synced_entries = dict(node.entries)

    def rename(self, old, new):
        with self.mutex:
            self.changes()
            (from_folder, from_name), (to_folder, to_name) = split(old), split(new)
            node = self.node(old)
            del self.node(from_folder).entries[from_name]
            self.node(to_folder).entries[to_name] = node

    def link(self, target, source):
        with self.mutex:
            self.changes()
            folder, name = split(target)
            if name in self.node(folder).entries:
                raise fuse.FuseOSError(errno.EEXIST)
            self.node(folder).entries[name] = self.node(source)

    def unlink(self, path):
        with self.mutex:
            self.changes()
            folder, name = split(path)
            self.node(path)
            del self.node(folder).entries[name]

    def release(self, path, fh):
        with self.mutex:
            self.handles.pop(fh, None)

    def flush(self, path, fh):
        pass

    def opendir(self, path):
        self.alive()
        return 0

    def releasedir(self, path, fh):
        pass

    def chmod(self, path, mode):
        with self.mutex:
            node = self.node(path)
            node.mode = stat.S_IFMT(node.mode) | stat.S_IMODE(mode)

    def chown(self, path, uid, gid):
        with self.mutex:
            node = self.node(path)
            node.uid, node.gid = (node.uid if uid == -1 else uid), (node.gid if gid == -1 else gid)

    def utimens(self, path, times=None):
        with self.mutex:
            self.node(path).times = times or (time.time_ns(), time.time_ns())

    def access(self, path, mode):
        self.node(path)

    def statfs(self, path):
        return {"f_bsize": 4096, "f_blocks": 1 << 20, "f_bavail": 1 << 20, "f_bfree": 1 << 20, "f_namemax": 255}


if __name__ == "__main__":
    # Nothing is cached by the kernel: after a cut it would remember what the disk has forgotten.
    fuse.FUSE(Forgetful(), sys.argv[1], foreground=True, nothreads=True, direct_io=True, attr_timeout=0, entry_timeout=0,
              negative_timeout=0, hard_remove=True, fsname="forgetful")
