from paddleseg_psp.commands.analyse import main

if __name__ == "__main__":
    main()
