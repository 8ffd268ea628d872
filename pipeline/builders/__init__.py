"""From a configuration to what runs: data, networks, method, teacher. Imports every part; no part imports it."""
