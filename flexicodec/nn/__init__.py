"""Network parts that know no codec; each mixes time only over the valid steps of an item."""
