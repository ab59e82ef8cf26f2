"""Pronunciations of English words that a dictionary lacks, by spelling rules; a forced aligner needs no better.

The rules are applied from left to right, the longest that fits first. They know neither stress nor syllables.
"""

SUFFIXES = {  # of a word whose beginning is in the dictionary, with the phones after voiced and voiceless ends
    "'s": ("Z", "S"),
    "s'": ("Z", "S"),
    "s": ("Z", "S"),
    "ed": ("D", "T"),
    "ing": ("IH NG", "IH NG"),
    "ly": ("L IY", "L IY"),
    "ness": ("N AH S", "N AH S"),
}
VOICELESS = frozenset("P T K F TH".split())
SIBILANTS = frozenset("S Z SH ZH CH JH".split())

_RULES = """
tion=SH AH N  sion=ZH AH N  ough=AO  augh=AO  igh=AY  eigh=EY  tch=CH  dge=JH  sch=SH  ture=CH ER
ch=CH  sh=SH  th=TH  ph=F  wh=W  ck=K  ng=NG  qu=K W  gh=G  kn=N  wr=R  ps=S  rh=R
ee=IY  ea=IY  oo=UW  ou=AW  ow=OW  oa=OW  oi=OY  oy=OY  ai=EY  ay=EY  au=AO  aw=AO  ei=EY  ey=IY  ie=IY  eu=Y UW
ew=Y UW  ue=UW  ar=AA R  er=ER  ir=ER  ur=ER  or=AO R  ce=S  ci=S IH  cy=S IY  ge=JH  gi=JH IH
a=AE  b=B  c=K  d=D  e=EH  f=F  g=G  h=HH  i=IH  j=JH  k=K  l=L  m=M  n=N  o=AA  p=P  q=K  r=R  s=S  t=T  u=AH  v=V
w=W  x=K S  y=IY  z=Z
"""
RULES = dict(rule.strip().split("=") for line in _RULES.splitlines() for rule in line.split("  ") if rule.strip())
LONGEST = max(map(len, RULES))


def spell_out(word: str) -> str:
    """Return the phones (ARPAbet without stress) of a lower-case word of the letters a to z, by rules."""
    letters = word.replace("'", "")
    if len(letters) > 3 and letters.endswith("e") and letters[-2] not in "aeiou":
        letters = letters[:-1]  # silent
    phones: list[str] = []
    at = 0
    while at < len(letters):
        for length in range(min(LONGEST, len(letters) - at), 0, -1):
            found = RULES.get(letters[at : at + length])
            if found is not None:
                break
        else:
            raise ValueError(f"{word!r} has other characters than a to z and the apostrophe")
        # A doubled letter is one phone.
        if not (length == 1 and at and letters[at] == letters[at - 1]):
            phones += found.split()
        at += length
    return " ".join(phones)


def add_suffix(phones: str, suffix: str) -> str:
    """Append a suffix of `SUFFIXES` to the phones of a word."""
    last = phones.split()[-1]
    voiced, voiceless = SUFFIXES[suffix]
    if suffix == "ed" and last in ("T", "D"):
        return f"{phones} IH D"
    if voiced == "Z" and last in SIBILANTS:
        return f"{phones} IH Z"
    is_voiceless = last in VOICELESS or (suffix == "ed" and last in ("S", "SH", "CH"))
    return f"{phones} {voiceless if is_voiceless else voiced}"
