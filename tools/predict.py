from supernet.cli.predict import main  # the code, which the installed command has too

if __name__ == "__main__":
    main()
