"""Writing aside, replacing and removing: no other module of the program does any of it.

What is written is made in a *staging folder* beside its place, `.NAME.megaprune-TOKEN`, and
renamed when it is whole and on the disk. The staging folder carries a mark, `owner.json`, which
says what it is for and which process made it. Only a folder with that mark is ever cleared away,
and only if its process is gone. A finished folder carries a record of its files; only a folder
whose every file is in its record, unchanged, is ever replaced or removed.

No link is followed: neither into a removal nor out of a folder that is replaced.
"""

from megaprune.files.processes import is_gone, machine, process_record
from megaprune.files.record import RECORD, foreign
from megaprune.files.staging import LEASE_ENDING, clear_up, clear_up_inside, read_json
from megaprune.files.write import (
    append_line,
    check_folder_output,
    check_output,
    disk_full,
    new_file,
    new_folder,
    remove_file,
    remove_folder,
    replace_bytes,
    replace_link,
    replace_text,
    set_aside,
    write_files,
    writing,
)

__all__ = [
    "LEASE_ENDING",
    "RECORD",
    "append_line",
    "check_folder_output",
    "check_output",
    "clear_up",
    "clear_up_inside",
    "disk_full",
    "foreign",
    "is_gone",
    "machine",
    "new_file",
    "new_folder",
    "process_record",
    "read_json",
    "remove_file",
    "remove_folder",
    "replace_bytes",
    "replace_link",
    "replace_text",
    "set_aside",
    "write_files",
    "writing",
]
