import subprocess

import pytest


@pytest.fixture
def disk(tmp_path):
    """A file system of its own; call it with options to set its size or make it read-only."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    try:
        mount = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("a small disk cannot be mounted: there is no mount")
    if mount.returncode:
        pytest.skip(f"a small disk cannot be mounted: {mount.stderr.strip()}")

    def remount(*options):
        words = ["mount", "-o", ",".join(("remount", *options)), str(place)]
        subprocess.run(words, check=True, capture_output=True)
        return place

    yield remount
    subprocess.run(["umount", str(place)], check=True)
