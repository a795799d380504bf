from .tokens import TokenizedTexts as TokenizedTexts
from .tokens import load_tokenizer as load_tokenizer
from .tokens import tokenize as tokenize
from .truncation import Sequences as Sequences
from .truncation import TokenSettings as TokenSettings
from .truncation import truncate as truncate
