"""The first hour: finding out what somebody's source holds, writing it down, reading the past (ONB-1, ONB-2)."""
