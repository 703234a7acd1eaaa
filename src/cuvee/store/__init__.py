"""The store: a content-addressed folder of finished stages.

.cuvee/
  store.json              layout version
  train/3f9a1c20b7de4455/ one finished stage: its files, manifest.json written last
  work/train-3f9a.../     work in progress: checkpoints live here until the stage is complete
  locks/                  one writer a stage, across processes
  leases/                 what runs under way need, so that nobody deletes it
  journal.jsonl           what was started, resumed, finished, failed, and when
  pins.json               hashes of outside files by size, times and inode
"""

from cuvee.store.store import Store

__all__ = ["Store"]
