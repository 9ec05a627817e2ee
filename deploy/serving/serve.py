from paddleseg_psp.commands.serve import main

if __name__ == "__main__":
    main()
