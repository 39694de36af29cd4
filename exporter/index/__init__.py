"""Search indexes: may the queries of one artifact search the index of another?"""
