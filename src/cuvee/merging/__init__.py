"""Merging: model folders in, one model folder out, a few pieces of a tensor at a time.

    write(prepare(Inputs((Path("a"), Path("b"))), method, threads=2), Path("out"))

`weights` reads, `matching` checks that the models fit each other, `streaming` lets a merger see every element,
`writing` writes the shards. What a method does with the elements is its own file in ``mergers/``; nothing here knows
any of them.
"""
