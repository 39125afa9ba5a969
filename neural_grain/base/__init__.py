"""What every stage needs: errors, files, JSON records, parallel loops and the command line."""
