"""Damages a variant that answers, and what is kept of it: `python -m tests.campaign.variants`.

Its manifest is damaged in structure and bytes; graphs, numbers, embeddings and tokenizer with their
hashes as they were, or made right again; stamps and kept image tokens; and files become links,
folders and pipes. Nothing may end with 1, be read or written elsewhere, or be answered from files
whose checksum is wrong.
"""

import hashlib
import json
import os
import shutil
import sys

from tests.campaign.damage import attempts
from tests.campaign.damage.attempts import Attack, FaultError, ask, check_ending
from tests.campaign.damage.mutations import mutate, mutate_json
from tests.demo import DEMO
from tests.light.real_variant import PICTURE
from tinyv_cli.backends.image_cache import _DIGEST_BYTES
from tinyv_cli.errors import ExitCode

# How often what is damaged: (n, what).
_WAYS = (
    *((30, "manifest"), (8, "manifest's bytes"), (14, "file"), (24, "file and hash")),
    *((8, "stamps"), (6, "tokens"), (4, "tokens and hash"), (6, "kind of file")),
)
_KINDS = ("folder", "pipe", "link out", "link to itself", "link to zeros", "nothing", "empty")
_VERBS = ("ask", "ask", "ask", "show")
_REFUSALS = (ExitCode.WEIGHTS, ExitCode.DEVICE)


class Variants(Attack):
    """The miniature's variant, in a home of its own."""

    def __init__(self, seed, folder):
        super().__init__(seed, folder)
        self._variant = folder / "variant"
        self._home = folder / "home"
        self._kept = folder / "home as it was"
        self._sound = {}
        self._right = {}
        os.environ["TINYV_HOME"] = str(self._home)
        (folder / "outside").write_bytes(b"x")

    def warm_up(self):
        """Makes the variant anew, and what is kept of it, and asks for the right answers."""
        for place in (self._variant, self._home, self._kept):
            shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(DEMO / "variant", self._variant)
        for verb in dict.fromkeys(_VERBS):
            code, out, err = self._run(verb)
            check_ending(code, out, err, (ExitCode.OK,))
            self._right[verb] = out
        shutil.copytree(self._home, self._kept)
        self._sound = self._read_sound()

    def _read_sound(self):
        """Reads the files of the variant, and what is kept of it, by path."""
        files = {self._variant / path.name: path for path in sorted((DEMO / "variant").iterdir())}
        for kept in (*self._kept.glob("stamps/*.json"), *self._kept.glob("cache/images/*.tokens")):
            files[self._home / kept.relative_to(self._kept)] = kept
        return {path: source.read_bytes() for path, source in files.items()}

    def _run(self, verb):
        words = [verb, str(self._variant)]
        if verb == "ask":
            words = [
                "ask",
                str(PICTURE),
                "what is this?",
                "-m",
                str(self._variant),
                "-n",
                "3",
                "-q",
            ]
        return ask(words)

    def make(self, number):
        """Makes an attempt.

        Returns:
            What is done, the verb, and by path new bytes, or the name of a kind of file.
        """
        chance = self.make_chance(number)
        way = chance.choices([what for _, what in _WAYS], [n for n, _ in _WAYS])[0]
        verb = chance.choice(_VERBS) if way.startswith(("manifest", "kind")) else "ask"
        manifest = self._variant / "manifest.json"
        files = [path for path in self._sound if path.parent == self._variant and path != manifest]
        others = [self._sound[path] for path in files]
        if way == "manifest":
            return way, verb, {manifest: mutate_json(self._sound[manifest], chance)}
        if way == "manifest's bytes":
            return way, verb, {manifest: mutate(self._sound[manifest], chance, others)}
        kept = [path for path in self._sound if path.parent != self._variant]
        stamps, tokens = sorted(kept, key=lambda path: path.suffix != ".json")
        if way == "stamps":
            damage = mutate_json if chance.random() < 0.7 else mutate
            return way, verb, {stamps: damage(self._sound[stamps], chance)}
        if way.startswith("tokens"):
            content = mutate(self._sound[tokens], chance, others)
            if way == "tokens and hash":
                body = content[_DIGEST_BYTES:]
                content = hashlib.sha256(body).digest() + body
            return way, verb, {tokens: content}
        if way == "kind of file":
            return way, verb, {chance.choice(list(self._sound)): chance.choice(_KINDS)}
        path = chance.choice(files)
        content = mutate(self._sound[path], chance, others)
        if path.name == "tokenizer.json" and chance.random() < 0.7:
            content = mutate_json(self._sound[path], chance)
        changed = {path: content}
        if way == "file and hash":
            values = json.loads(self._sound[manifest])
            for entry in values["files"]:
                if entry["path"] == path.name:
                    entry |= {"size_bytes": len(content)}
                    entry["sha256"] = hashlib.sha256(content).hexdigest()
            changed[manifest] = json.dumps(values).encode()
        return way, verb, changed

    def attempt(self, number):
        """Asks a damaged variant, or has it shown."""
        way, verb, changed = self.make(number)
        try:
            for path, content in changed.items():
                self._put(path, content)
            code, out, err = self._run(verb)
        finally:
            for path in changed:
                self._put(path, self._sound[path])
        name = f"{way}, {next(iter(changed)).suffix}" if way.startswith("file") else way
        # Numbers that are none break an answer off, wherever they are first met.
        breaks_off = way.endswith("and hash") and "instead of a number" in err
        check_ending(code, "" if breaks_off else out, err, (ExitCode.OK, *_REFUSALS))
        if code:
            return f"{name}: refused"
        if out == self._right[verb]:
            return f"{name}: the right answer"
        if "manifest" in way or way in ("file and hash", "tokens and hash"):
            return f"{name}: another answer, by the manifest or with hashes made right"
        raise FaultError(f"{name}: another answer")

    def _put(self, path, content):
        """Writes a file, or puts another kind of file in its place."""
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        path.unlink(missing_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content == "folder":
            path.mkdir()
        elif content == "pipe":
            os.mkfifo(path)
        elif content == "empty":
            path.touch()
        elif content != "nothing":
            targets = {"link out": self.folder / "outside", "link to zeros": "/dev/zero"}
            path.symlink_to(targets.get(content, path))

    def keep(self, number, folder):
        """Writes the damaged files."""
        self._sound = self._sound or self._read_sound()
        for path, content in self.make(number)[2].items():
            if isinstance(content, bytes):
                (folder / path.name).write_bytes(content)
            else:
                (folder / f"{path.name} is {content}").touch()


if __name__ == "__main__":
    sys.exit(attempts.main(Variants, __doc__, 1000))
