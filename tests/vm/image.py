"""The disk that every guest starts from: Debian with its own kernel, built once."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.lab import image
from tests.lab.commands import run

_KERNEL = ("linux-image-cloud-amd64", "initramfs-tools", "udev")
# Installed, not only kept: under emulation, dpkg takes minutes.
_SOFTWARE = (
    "nfs-kernel-server", "nfs-common", "slurmctld", "slurmd", "slurm-client", "munge",
    "python3-apt",
)  # fmt: skip
_MODULES = ("virtio_pci", "virtio_blk", "virtio_net", "ext4")
_SIZE = "4G"


def base() -> Path:
    """A folder with vmlinuz, initrd and root.ext4; a minute the first time, then at once."""
    release = image.Release.named("bookworm")
    packages = (*image.PACKAGES, *_KERNEL, *_SOFTWARE)
    key = image.key_of(release, packages, _MODULES, _SIZE, image.apt_settings(),
                       image.authorities(), Path(__file__).read_text())  # fmt: skip
    path = image.CACHE / f"vm-{release.name}-{key}"
    with image.locked(image.CACHE / f"vm-{release.name}"):
        if not path.is_dir():
            for old in image.CACHE.glob(f"vm-{release.name}-*"):
                if old.is_dir():
                    shutil.rmtree(old)  # a living guest keeps the file that it has open
            _build(release, packages, path)
    return path


def _build(release: image.Release, packages: tuple[str, ...], path: Path) -> None:
    partial = path.with_name(path.name + ".partial")
    root = partial / "root"
    partial.mkdir()
    # Before the kernel comes: an initrd of what this one disk needs, not of everything.
    few = 'mkdir -p "$1/etc/initramfs-tools/conf.d" && echo MODULES=list >"$1/{}"'
    hook = few.format("etc/initramfs-tools/conf.d/few")
    image.make_root(release, root, packages, f"--essential-hook={hook}")
    image.write_in(root, "etc/initramfs-tools/modules", "\n".join(_MODULES) + "\n")
    image.write_in(root, "etc/fstab", "/dev/vda / ext4 errors=remount-ro 0 1\n")
    image.run_in(root, "update-initramfs", "-u")
    image.run_in(root, "systemctl", "disable", "slurmctld", "slurmd", "munge", "nfs-server",
                 "nfs-blkmap", "rpcbind", "e2scrub_reap")  # fmt: skip
    for kind in ("vmlinuz", "initrd"):
        [file] = root.glob(f"boot/{kind}*")
        shutil.copy(file, partial / kind)
    disk = partial / "root.ext4"
    run("truncate", "-s", _SIZE, str(disk))
    run("mke2fs", "-q", "-F", "-t", "ext4", "-d", str(root), str(disk), timeout=300)
    shutil.rmtree(root)
    partial.rename(path)
