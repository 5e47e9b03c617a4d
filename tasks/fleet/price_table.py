"""On-demand prices of the machine types that the project is set up for: planning values, used as upper bounds.

Linux, USD an hour, us-east-1, as last noted in November 2026 from public price lists; AWS's price list is the truth. They bound
Spot prices, since a Spot request without a maximum of its own is capped at the on-demand price (AWS documentation).
"""

from __future__ import annotations

ON_DEMAND = {
    "g4dn.xlarge": 0.526,
    "g4dn.2xlarge": 0.752,
    "g5.xlarge": 1.006,
    "g5.2xlarge": 1.212,
    "g6.xlarge": 0.805,
    "g6.2xlarge": 0.978,
    "g6e.xlarge": 1.861,
}
HOME_REGION = "us-east-1"
REGION_BOUND = 2.0
"""Elsewhere twice as much is taken: no price, but a bound that no region's price for these types is known to exceed."""
EXTRAS = 0.0228
"""USD an hour beside compute: 100 GB gp3 0.0110, 125 MB/s of it 0.0068, a public IPv4 address 0.0050 (us-east-1)."""
