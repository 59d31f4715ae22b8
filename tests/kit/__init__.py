"""What more than one test needs: components with known answers, small networks, files, and ways to run a grid."""
