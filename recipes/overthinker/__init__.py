"""A tiny model that overthinks: it adds and subtracts, and checks its result again and again."""
