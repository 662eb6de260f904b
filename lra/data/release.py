"""LRA's own archive: where it is to be had, and which command reads a part of it."""

ARCHIVE = (
    "`curl -O https://storage.googleapis.com/long-range-arena/lra_release.gz && tar xzf "
    "lra_release.gz` (7.7 GB; it has been reported to answer 403)"
)


def how(task: str, folder: str) -> str:
    """The commands that get the archive and make a task of one of its folders."""
    return (
        f"take LRA's archive, {ARCHIVE}, then `python -m lra prepare {task} --source {folder}`, "
        "and task.source=FOLDER in runs"
    )
