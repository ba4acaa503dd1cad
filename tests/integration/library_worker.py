"""Several runs one after another in this process, as a library: a JSON list of lists of fields."""

import json
import sys

import megaprune as mp


def main():
    for fields in json.loads(sys.argv[1]):
        try:
            mp.train(mp.read_config(fields))
        except KeyboardInterrupt:
            print(json.dumps({"interrupted": fields}), flush=True)


if __name__ == "__main__":
    main()
