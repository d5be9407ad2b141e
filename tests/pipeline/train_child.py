"""Train as a config's file says, as a process that may be killed or be one of several."""

import sys
from pathlib import Path

from configs.train_corpus_schema import CorpusTrainConfig
from tasks.train_corpus import train_corpus

if __name__ == "__main__":
    text = Path(sys.argv[1]).read_text(encoding="utf-8")
    train_corpus(CorpusTrainConfig.model_validate_json(text))
