from paddleseg_psp.commands.export import main

if __name__ == "__main__":
    main()
